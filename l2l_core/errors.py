"""What goes wrong in a way that people can mend."""


class PlainError(ValueError):
    """The message is a sentence for whoever asked: what is wrong and what to do.

    It is shown as it is. Other errors may quote paths and file names; people get a general
    sentence, the log gets their type and where they arose.
    """
