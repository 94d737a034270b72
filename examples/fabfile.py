"""Fabric over the servers of a kps controller.

    fab uptime --select stage=prod
    fab uptime --all
    fab deploy --server web-1 --path site.tar

Which controller is asked, and as whom, is said as to kps itself: KPS_PROFILE, KPS_URL with its variables, or KPS_HOME. No private
key is in a file, and a server that does not show its recorded host key is not spoken to. What to install: docs/scripts.md.
"""

from fabric import task

from controller.fabric import connection, group


@task(iterable=["select"])
def uptime(c, select, all=False):
    """Print how long each of the selected servers has been up."""
    with group(*select, every=all, config=c.config) as servers:
        results = servers.run("uptime -p", hide=True, warn=True)
    for server in sorted(results, key=lambda each: each.name):
        print(f"{server.name}: {results[server].stdout.strip()}")


@task
def deploy(c, server, path):
    """Put a file into the login's home on a server, and print its checksum there."""
    with connection(server, config=c.config) as there:
        there.put(path, "deployed")
        print(there.run("cksum < deployed", hide=True).stdout.strip())
