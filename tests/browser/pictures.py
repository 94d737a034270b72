"""The pictures of the console in README and docs, made anew: real servers, real failures, and a large home for the overview.

    python -m tests.browser.pictures [--home DIRECTORY] [overview] [failures] [emergencies]

Without names all of them. --home: one that benchmarks/home.py has filled; else one of 10,000 servers is filled for this, which
takes a minute or two.
"""

import argparse
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

from benchmarks.home import fill
from controller.demo.fleet import Fleet, Login, Server, Spec
from tests.browser.conftest import CHROMIUM
from tests.browser.served import Served

DOCS = Path(__file__).parents[2] / "docs"
PASSWORD = "one for all of them"
SECONDS = 60_000


def main() -> None:
    asks = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    asks.add_argument("--home", type=Path)
    asks.add_argument("names", nargs="*", metavar=f"{{overview,{','.join(REAL)}}}")
    asked = asks.parse_args()
    wanted = set(asked.names or ["overview", *REAL])
    if unknown := wanted - {"overview", *REAL}:  # argparse's own choices take no empty list
        asks.error(f"no such picture: {', '.join(unknown)}")
    with tempfile.TemporaryDirectory() as place:
        large = asked.home or Path(place) / "large"
        if "overview" in wanted and not large.exists():
            fill(large, 10_000, 100_000)  # by a loop of its own: while a browser runs, this thread has one
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
            if "overview" in wanted:
                overview(browser, large)
            for name in wanted & REAL.keys():
                with Served(Path(place) / name, allow_networks="127.0.0.0/8") as served, Fleet() as fleet:
                    REAL[name](browser, served, fleet)
            browser.close()


def overview(browser: Browser, home: Path) -> None:
    """Take a picture of how a large fleet stands."""
    with Served(home) as served:
        page = entered(browser, served)
        kept(page, "overview")
        page.context.close()


def entered(browser: Browser, served: Served, **how: object) -> Page:
    """Return a page of somebody who has signed in."""
    page = browser.new_context(viewport={"width": 1280, "height": 900}, **how).new_page()  # type: ignore[arg-type]
    page.goto(f"{served.url}/console/link#{served.code('administrator')}")
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{served.url}/console/")
    return page


def kept(page: Page, name: str, whole: bool = True) -> None:
    """Keep a picture of a page among the docs."""
    page.screenshot(path=DOCS / f"{name}.png", full_page=whole)


def failures(browser: Browser, served: Served, fleet: Fleet) -> None:
    """Bind a key pair on real servers, some of which it does not go well on; and take pictures of what comes of it."""
    plain = [fleet.add(Spec(name=f"web-{number}", root_password=PASSWORD)) for number in range(1, 6)]
    others = fleet.add(Spec(name="db-1", root_password=PASSWORD, logins=(Login("deploy", "s3cret"),)))
    wrong = fleet.add(Spec(name="cache-1", root_password="another one"))
    gone = fleet.add(Spec(name="cache-2", root_password=PASSWORD))
    servers: list[Server] = [*plain, others, wrong, gone]
    for each in servers:
        served.add(each, labels={"env": "prod", "tier": each.name.partition("-")[0]})
    served.kps("server", "set", gone.name, "--port", "1")
    served.kps("keypair", "create", "ops-2026", "--scope", "account")
    served.kps("keypair", "create", "ops-2027", "--scope", "account")
    given = {"credentials": {each.name: {"password": PASSWORD} for each in servers}}
    strategy = {"per_label": "tier", "canary": "0", "batch": "100%", "max_failures": "100%", "tries": 1}
    order = {"operation": "bind", "servers": [each.name for each in servers], "keypair": "ops-2026", "strategy": strategy}
    begun = served.ask("POST", "/rollouts", body=order | given)
    served.kps("rollout", "watch", begun["id"], ends=None)

    page = entered(browser, served)
    page.goto(f"{served.url}/console/failed-tasks/")
    page.get_by_text("Evidence").first.click()
    kept(page, "console-failed-tasks")
    page.goto(f"{served.url}/console/rollouts/{begun['id']}")
    expect(page.get_by_role("heading", name="By tier")).to_be_visible()
    kept(page, "console-rollout", whole=False)
    page.goto(f"{served.url}/console/servers/?q=web")
    for each in plain[:3]:
        page.get_by_label(f"Choose {each.name}").check()
    page.get_by_role("button", name="Replace the key pair").click()
    page.get_by_label("Key pair", exact=True).select_option("ops-2027")
    page.get_by_role("button", name="Show the plan").click()
    expect(page.get_by_role("button", name="Do it on 3 servers")).to_be_visible(timeout=SECONDS)
    kept(page, "console-plan")
    page.context.close()


def emergencies(browser: Browser, served: Served, fleet: Fleet) -> None:
    """Open doors, and reset a server by its disk; and take pictures of both."""
    people = (Login("deploy", "s3cret"),)
    web, cache, lost = (
        fleet.add(Spec(name=name, root_password=PASSWORD, logins=people)) for name in ("web-1", "cache-1", "db-1")
    )
    for name in ("ops-2025", "ops-2026"):
        served.kps("keypair", "create", name, "--scope", "account")
    for each in (web, cache, lost):
        served.add(each, labels={"env": "prod", "tier": each.name.partition("-")[0]})
        order = {"keypair": {"name": "ops-2025"}, "password": PASSWORD, "accept_lockout": ["deploy"]}
        served.succeeds("bind", each, **order)
    why = ("--login", "deploy", "--for", "30m", "--reason")
    served.kps("emergency", "open", cache.name, *why, "the deployment's key expired")
    served.kps("emergency", "close", cache.name)
    page = entered(browser, served)
    page.goto(f"{served.url}/console/emergency/")
    page.get_by_text("Open a door", exact=True).click()
    fields = {"Servers": web.name, "Why": "no key gets in since the update", "Login": "deploy", "From": "127.0.0.0/8"}
    for label, text in fields.items():
        page.get_by_label(label, exact=True).fill(text)
    page.get_by_role("button", name="Show what would be opened").click()
    page.get_by_label("Password", exact=True).fill("s3cret")
    page.get_by_role("button", name="Open it").click()
    expect(page.get_by_role("region", name="Emergency doors").get_by_text("open", exact=True)).to_be_visible(timeout=SECONDS)
    kept(page, "console-door")
    served.kps("emergency", "close", web.name)
    lost.stop()
    served.kps("server", "set", lost.name, "--shut-down", str(lost.mounted_root()))
    page.goto(f"{served.url}/console/servers/{lost.name}")
    page.get_by_label("Key pair", exact=True).select_option("ops-2026")
    page.get_by_label("To confirm, type the server's name").fill(lost.name)
    page.get_by_role("button", name=f"Reset {lost.name}").click()
    expect(page.get_by_text("nobody has proved that yet")).to_be_visible(timeout=SECONDS)
    kept(page, "console-reset")
    page.context.close()


REAL = {"failures": failures, "emergencies": emergencies}

if __name__ == "__main__":
    main()
