"""Say a URL without the password in it."""

import re

# Where another URL begins. Without it a password may hold any character: SQLAlchemy takes `/`, `?` and `#`.
_NEXT = r"(?<=[\s\\\"'(<,;|=])[\w+.-]+://"
# Matched to its end even where there is no password, so that a long text is looked through once.
_ADDRESS = re.compile(rf"(?P<user>://[^\s/:]*):(?P<rest>(?:(?!{_NEXT})\S)*)")
# A text that is a URL may hold a password of several words.
_WHOLE = re.compile(rf"\A(?P<user>[\w+.-]+://[^\s/:]*):(?P<rest>(?:(?!{_NEXT}).)*)", re.DOTALL)
_PARAMETER = re.compile(r"(?P<name>(?:password|passwd|secret|token)=)[^&\s\"']+", re.IGNORECASE)


def mask_url(text: str) -> str:
    """Replace every password in URLs of the text by `***`, and all that might be one.

    A password ends at the last `@` before a space or the next URL.
    """
    masked = _ADDRESS.sub(_mask, _WHOLE.sub(_mask, text))
    return _PARAMETER.sub(r"\g<name>***", masked)


def _mask(found: re.Match[str]) -> str:
    _, at, host = found["rest"].rpartition("@")
    return f"{found['user']}:***@{host}" if at else found[0]
