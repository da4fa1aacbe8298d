"""Every command of `wm-gym`: where it lives, and a line about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

OutputKind = Literal["folder", "file", "picture"]


@dataclass(frozen=True)
class Command:
    """Where a command lives.

    Attributes:
        module: module that defines both.
        config: name of the frozen dataclass that tyro fills; its docstring is the command's help.
        function: name of the function that takes it.
        summary: line in `wm-gym --help`.
        out: kind of place that its option `out` (or `to`) names.
    """

    module: str
    config: str
    function: str
    summary: str
    out: OutputKind = "folder"


COMMANDS: dict[str, Command] = {
    "demo": Command(
        "wm_gym.evaluation.demo.run",
        "DemoConfig",
        "demo",
        "roll recorded actions in the dream beside the truth; writes a video",
    ),
    "list": Command(
        "wm_gym.commands.list_ids", "ListConfig", "list_ids", "list the environment ids"
    ),
    "info": Command(
        "wm_gym.commands.info", "InfoConfig", "info", "show a model's card, or --flops of all sizes"
    ),
    "record": Command(
        "wm_gym.commands.record",
        "RecordConfig",
        "record",
        "write a video of any environment id",
        out="file",
    ),
    "evaluate open-loop": Command(
        "wm_gym.evaluation.open_loop.measure",
        "OpenLoopConfig",
        "evaluate_open_loop",
        "compare rollouts under recorded actions with the recorded frames",
    ),
    "evaluate steadiness": Command(
        "wm_gym.evaluation.open_loop.steadiness",
        "SteadinessConfig",
        "evaluate_steadiness",
        "does a dream stand still under zero actions, and come back from where it was sent",
    ),
    "evaluate reward-model": Command(
        "wm_gym.evaluation.success.reward_model",
        "RewardModelConfig",
        "evaluate_reward_model",
        "accuracy of the success classifier on real and imagined clips",
    ),
    "evaluate latent-spaces": Command(
        "wm_gym.evaluation.latent_spaces.compare",
        "LatentSpacesConfig",
        "evaluate_latent_spaces",
        "compare world models over different latent spaces, with controls",
    ),
    "evaluate semantic": Command(
        "wm_gym.evaluation.semantic.answers",
        "EvaluateSemanticConfig",
        "evaluate_semantic",
        "accuracy of a semantic world model's answers about the future",
    ),
    "calibrate-semantic": Command(
        "wm_gym.evaluation.semantic.calibrate",
        "CalibrateSemanticConfig",
        "calibrate_semantic",
        "choose above which probability a semantic world model's answers count",
    ),
    "calibrate-reward": Command(
        "wm_gym.evaluation.success.calibrate_reward",
        "CalibrateRewardConfig",
        "calibrate_reward",
        "choose when an episode that a success classifier watches is a success",
    ),
    "label-questions": Command(
        "wm_gym.evaluation.semantic.label_questions",
        "LabelQuestionsConfig",
        "label_dataset",
        "let a VLM answer questions, and count how often it is right",
    ),
    "decompose-task": Command(
        "wm_gym.evaluation.semantic.decompose_tasks",
        "DecomposeTaskConfig",
        "decompose_tasks",
        "let a language model divide instructions into subgoals",
    ),
    "plot attention": Command(
        "wm_gym.evaluation.semantic.plot_attention",
        "PlotAttentionConfig",
        "plot_attention",
        "draw which image patches the words of a question look at",
        out="picture",
    ),
    "plot plan": Command(
        "wm_gym.evaluation.semantic.plot_plan",
        "PlotPlanConfig",
        "plot_plan",
        "draw how a plan changes over a planner's steps",
        out="picture",
    ),
    "compare-real": Command(
        "wm_gym.evaluation.compare_real.run",
        "CompareRealConfig",
        "compare_real",
        "success of policies in the dream against success in the simulator",
    ),
    "judge": Command(
        "wm_gym.evaluation.success.judge_videos",
        "JudgeVideosConfig",
        "judge_videos",
        "say whether videos show what an instruction asks for",
    ),
    "calibrate-judge": Command(
        "wm_gym.evaluation.success.calibrate_judge",
        "CalibrateJudgeConfig",
        "calibrate_judge",
        "accuracy of judges on recorded and imagined clips",
    ),
    "diagnose": Command(
        "wm_gym.evaluation.parity.diagnose",
        "DiagnoseConfig",
        "diagnose",
        "measure what an imported checkpoint's shapes cannot tell",
    ),
    "check-parity": Command(
        "wm_gym.evaluation.parity.check",
        "CheckParityConfig",
        "check_parity",
        "run every reference case of a folder",
    ),
    "collect": Command(
        "wm_gym.envs.collect", "CollectConfig", "collect", "collect episodes in a simulator"
    ),
    "collect-qa": Command(
        "wm_gym.envs.collect_qa",
        "CollectQAConfig",
        "collect_qa",
        "ask questions about the future of recorded episodes",
    ),
    "make-start-states": Command(
        "wm_gym.commands.make_start_states",
        "MakeStartStatesConfig",
        "run",
        "store start states beside a checkpoint",
    ),
    "make-demo-clips": Command(
        "wm_gym.evaluation.demo.clips",
        "MakeDemoClipsConfig",
        "make_demo_clips",
        "store held-out episodes beside a checkpoint for the demo",
    ),
    "hash-files": Command(
        "wm_gym.commands.hash_files",
        "HashFilesConfig",
        "hash_files",
        "verify a checkpoint folder, and add hashes its card lacks",
    ),
    "label-goals": Command(
        "wm_gym.envs.goal_labels",
        "GoalLabelsConfig",
        "label_goals",
        "label episodes with every goal's success and distance",
    ),
    "convert": Command(
        "wm_gym.commands.convert",
        "ConvertConfig",
        "convert",
        "write a data set as LeRobot v3 or Minari",
    ),
    "train autoencoder": Command(
        "wm_gym.training.autoencoder",
        "AutoencoderConfig",
        "train_autoencoder",
        "train a pixel autoencoder",
    ),
    "train vjepa": Command(
        "wm_gym.training.vjepa",
        "TrainVJEPAConfig",
        "train_vjepa",
        "train a small V-JEPA: masked latent prediction",
    ),
    "train latents": Command(
        "wm_gym.training.encode_latents",
        "EncodeLatentsConfig",
        "encode_latents",
        "encode every frame of a dataset, once",
    ),
    "train imagined-latents": Command(
        "wm_gym.training.imagine_latents",
        "ImagineLatentsConfig",
        "imagine_latents",
        "imagine recorded episodes, for a success classifier that has seen dreams",
    ),
    "train svae": Command(
        "wm_gym.training.svae",
        "TrainSVAEConfig",
        "train_svae",
        "train the adapter that compresses a wide semantic latent",
    ),
    "train pixel-decoder": Command(
        "wm_gym.training.pixel_decoder",
        "TrainPixelDecoderConfig",
        "train_pixel_decoder",
        "train a decoder from frozen latents to frames",
    ),
    "train latent-dynamics": Command(
        "wm_gym.training.latent_dynamics",
        "LatentDynamicsConfig",
        "train_latent_dynamics",
        "train a latent diffusion transformer",
    ),
    "train idm": Command(
        "wm_gym.training.idm",
        "TrainIDMConfig",
        "train_idm",
        "train a model that reads actions from latents",
    ),
    "train distil": Command(
        "wm_gym.training.distil",
        "DistilConfig",
        "train_distil",
        "distil a sampler of few steps",
    ),
    "train reward": Command(
        "wm_gym.training.reward",
        "RewardConfig",
        "train_reward",
        "train the success classifier and distance regressor",
    ),
    "train semantic": Command(
        "wm_gym.training.semantic",
        "TrainSemanticConfig",
        "train_semantic",
        "train a semantic world model on questions about the future",
    ),
    "train assemble": Command(
        "wm_gym.training.assemble",
        "AssembleConfig",
        "assemble",
        "make a checkpoint folder from trained parts",
    ),
    "train assemble-semantic": Command(
        "wm_gym.training.assemble_semantic",
        "AssembleSemanticConfig",
        "assemble_semantic",
        "make a small checkpoint folder from a trained semantic world model",
    ),
    "train behaviour-cloning": Command(
        "wm_gym.policies.train_behaviour_cloning",
        "TrainBehaviourCloningConfig",
        "train_behaviour_cloning",
        "train a small image policy",
    ),
    "train diffusion-policy": Command(
        "wm_gym.policies.diffusion_policy.train",
        "TrainDiffusionPolicyConfig",
        "train_diffusion_policy",
        "train a diffusion policy",
    ),
    "train idql": Command(
        "wm_gym.policies.idql.train",
        "TrainIDQLConfig",
        "train_idql",
        "train critics that choose among a diffusion policy's samples",
    ),
    "serve-openvla": Command(
        "wm_gym.commands.serve_openvla",
        "ServeOpenVLAConfig",
        "serve_openvla",
        "serve OpenVLA as a policy, in an environment of its own",
    ),
    "import-semantic": Command(
        "wm_gym.training.import_semantic",
        "ImportSemanticConfig",
        "import_semantic",
        "convert a PaliGemma into a semantic checkpoint",
    ),
    "import-checkpoint": Command(
        "wm_gym.commands.import_checkpoint",
        "ImportCheckpointConfig",
        "run",
        "convert a released weight file into a checkpoint folder",
    ),
}
