"""`make fuzz`: hostile files, generated configurations, states of accounts and paths, random bytes, requests; a real sshd judges.

Each part is a module with one function that fills a Report: keys, configs, permissions, parsers, keyfiles, apis.
"""
