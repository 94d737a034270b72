"""What was refused, as a page: what is wrong, what to do next, and the number of the request."""

from starlette.responses import HTMLResponse, Response
from starlette.types import Scope

from controller.web.rendering import rendered

FAULT = "a fault of the controller itself; its log has the trace"

_TITLES = {
    400: "This cannot be used",
    401: "Sign in first",
    403: "Not allowed",
    404: "Not found",
    405: "Not possible here",
    408: "Too slow",
    409: "Not now",
    413: "Too large",
    422: "This cannot be used",
    429: "Too often",
    500: "A fault",
    503: "Not available",
}
_STEPS = {
    400: "Go back, correct what was given, and send it again.",
    403: "Ask somebody with another role.",
    404: "It may have been removed, or renamed. Look for it in its list.",
    409: "Do what is said first, then come again.",
    413: "Send less at a time.",
    429: "Wait a little, then try again.",
    500: "Try again. If it stays, tell whoever runs the controller the request's number.",
    503: "Have it put right on the controller's machine, then come again.",
}


def page(scope: Scope, status: int, code: str, message: str, *, signed_in: dict[str, object] | None = None) -> Response:
    """Return the page that refuses a request; for htmx the part of one. signed_in: what a page has around it, for who is."""
    by_htmx = any(name == b"hx-request" for name, _ in scope["headers"])
    values: dict[str, object] = {
        "title": _TITLES.get(status, "Refused"),
        "status": status,
        "code": code,
        "message": message,
        "step": _STEPS.get(status, ""),
        "number": scope.get("kps.number", ""),
        "here": "",
    }
    template = "problem-part.html" if by_htmx else "problem.html"
    return HTMLResponse(rendered(template, (signed_in or {"signed_in": None}) | values), status_code=status)
