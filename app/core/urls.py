"""Say a URL without the password in it."""

import re

_USER_PASSWORD = re.compile(r"(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]*://)(?P<user>[^\s/?#@:]*):[^\s/?#]*@")
_PARAMETER = re.compile(r"(?P<name>(?:password|passwd|secret|token)=)[^&\s\"']+", re.IGNORECASE)


def mask_url(text: str) -> str:
    """Replace every password in URLs of the text by `***`; everything else stays as it is."""
    masked = _USER_PASSWORD.sub(r"\g<scheme>\g<user>:***@", text)
    return _PARAMETER.sub(r"\g<name>***", masked)
