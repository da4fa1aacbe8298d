"""What a command says on standard error, without the box that tyro draws around an error."""


def said(capsys) -> str:
    """The words of standard error, a single space between them."""
    words = capsys.readouterr().err.replace("│", " ").split()
    return " ".join(word for word in words if set(word) - set("─╭╮╰╯"))
