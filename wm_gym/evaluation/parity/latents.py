"""Reference cases of the S-VAE, the pixel decoder, the IDM and the success probe.

Each case is one safetensors file laid out like tests/parity/data: `weights.*`, `input.*`,
`output.*` and a JSON `config` in the metadata, from which all sizes are taken.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wm_gym.errors import UserError
from wm_gym.judges.probe import SpatiotemporalProbe, SpatiotemporalProbeConfig
from wm_gym.latents.pixel_decoder import PixelDecoder, PixelDecoderConfig
from wm_gym.latents.svae import SVAE, SVAEConfig
from wm_gym.metrics.idm import TransformerIDM, TransformerIDMConfig
from wm_gym.packed_files import plain_path, read_file

ATOL, RTOL = 5e-5, 1e-4


@dataclass(frozen=True)
class ParityResult:
    """How far one case is from its reference.

    Attributes:
        case: name of the case.
        outputs: maximal absolute error by output.
        max_abs: maximal absolute error.
        max_rel: maximal error relative to the reference, where that exceeds `ATOL`.
        passed: every element within `ATOL + RTOL * |reference|`, and nothing missing.
    """

    case: str
    outputs: dict[str, float]
    max_abs: float
    max_rel: float
    passed: bool


@dataclass(frozen=True)
class ParityCase:
    """One reference file, parsed."""

    name: str
    config: dict[str, Any]
    weights: dict[str, Tensor]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    debug: dict[str, Tensor]


def case_paths(folder: Path, pattern: str = "*") -> list[Path]:
    """Paths of the safetensors cases of a folder, as plain files, sorted by name.

    Args:
        folder: of reference cases, plain or packed.
        pattern: of their names without suffix.
    """
    found = folder.glob(f"{pattern}.safetensors*")
    return sorted({path for path in map(plain_path, found) if path.suffix == ".safetensors"})


def read_case(path: Path) -> ParityCase:
    """Read a reference file, plain or packed."""
    from safetensors.torch import load

    groups: dict[str, dict[str, Tensor]] = {n: {} for n in ("weights", "input", "output", "debug")}
    content = read_file(path)
    for key, tensor in load(content).items():
        group, _, name = key.partition(".")
        if group in groups:
            groups[group][name] = tensor
    # a safetensors file begins with the length of its JSON header
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    config = json.loads(header.get("__metadata__", {}).get("config", "{}"))
    return ParityCase(path.stem, config, *groups.values())


def parity_kind(case: ParityCase) -> str | None:
    """Which network a case is about, by the class its metadata names; None if not one of ours."""
    return {
        "SVAEAdapter": "svae",
        "PixelDecoder": "pixel_decoder",
        "TransformerIDM": "idm",
        "SpatiotemporalProbe": "probe",
    }.get(case.config.get("class", ""))


def run_latent_parity(path: Path) -> ParityResult:
    """Run one reference file.

    Raises:
        ValueError: if the file is about another network, or its configuration has unknown fields.
    """
    case = read_case(path)
    kind = parity_kind(case)
    if kind is None:
        raise UserError(f"{path}: class {case.config.get('class')!r} is not tested here")
    with torch.no_grad():
        found = _RUNNERS[kind](case)
    # intermediate values only help to localise a mismatch: those not computed here do not count
    debug = {k: v for k, v in case.debug.items() if k in found}
    return compare(case.name, found, debug | case.outputs)


def latent_parity(folder: Path) -> list[ParityResult]:
    """Run every S-VAE, pixel-decoder, IDM and probe case of a folder, sorted by name."""
    return [run_latent_parity(path) for path in case_paths(folder) if parity_kind(read_case(path))]


def compare(name: str, found: dict[str, Tensor], expected: dict[str, Tensor]) -> ParityResult:
    """Compare outputs by name; one that was not produced, or has another shape, fails."""
    errors: dict[str, float] = {}
    relative, passed = [0.0], bool(expected)
    for key, reference in expected.items():
        value = found.get(key)
        if value is None or value.shape != reference.shape:
            errors[key], passed = float("inf"), False
            continue
        error = (value - reference).abs()
        errors[key] = error.max().item()
        sizeable = reference.abs() > ATOL
        relative.append((error / reference.abs())[sizeable].max().item() if sizeable.any() else 0.0)
        # written so that NaN fails
        passed = passed and bool((error <= ATOL + RTOL * reference.abs()).all())
    return ParityResult(name, errors, max(errors.values(), default=0.0), max(relative), passed)


def _config(cls: type, arguments: dict[str, Any], name: str) -> Any:
    known = inspect.signature(cls).parameters
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        raise UserError(f"{name}: {cls.__name__} has no fields {unknown}; it has {sorted(known)}")
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()})


def _load(network: nn.Module, case: ParityCase) -> Any:
    network.load_state_dict(case.weights, strict=True)
    return network.eval()


def _svae(case: ParityCase) -> dict[str, Tensor]:
    svae = _load(SVAE(_config(SVAEConfig, case.config["init_kwargs"], case.name)), case)
    z, z_l = case.inputs["z"], case.inputs["z_l"]
    if z.dim() == 4:  # the reference also takes (B, T, N, D), tokens without a grid
        z, z_l = z.unsqueeze(-2), z_l.unsqueeze(-2)
    mean, logvar = svae.moments(z)
    encoded = svae.encode(z)
    found = {
        "encode": encoded,
        "decode": svae.decode(z_l),
        "decode_of_encode": svae.decode(encoded),
        "train_mode_mu": mean,
        "train_mode_logvar": logvar,
    }
    expected = case.outputs | case.debug
    return {k: v.view_as(expected[k]) if k in expected else v for k, v in found.items()}


def _pixel_decoder(case: ParityCase) -> dict[str, Tensor]:
    if "config" in case.config:
        cfg = PixelDecoderConfig.from_released(case.config["config"])
    else:
        cfg = _config(PixelDecoderConfig, case.config["init_kwargs"], case.name)
    return {"rgb": _load(PixelDecoder(cfg), case)(case.inputs["z"])}


def _idm(case: ParityCase) -> dict[str, Tensor]:
    cfg = _config(TransformerIDMConfig, case.config["init_kwargs"], case.name)
    return {"actions": _load(TransformerIDM(cfg), case)(case.inputs["x"])}


def _probe(case: ParityCase) -> dict[str, Tensor]:
    cfg = _config(SpatiotemporalProbeConfig, case.config["init_kwargs"], case.name)
    probe = _load(SpatiotemporalProbe(cfg), case)
    x, text = case.inputs["x"], case.inputs.get("text_tokens")
    found = {"logit_no_text": probe(x)}
    if text is None:
        found["logit"] = found["logit_no_text"]
    else:
        found["logit_no_mask"] = probe(x, text)
        found["logit"] = probe(x, text, case.inputs.get("text_mask"))
        if "text_mask_last_empty" in case.inputs:
            masked = probe(x, text, case.inputs["text_mask_last_empty"])
            found["logit_last_row_empty_mask"] = masked
    return found


_RUNNERS: dict[str, Callable[[ParityCase], dict[str, Tensor]]] = {
    "svae": _svae,
    "pixel_decoder": _pixel_decoder,
    "idm": _idm,
    "probe": _probe,
}
