"""The console: pages for people, in a browser. How it fits together, and how a page is added: docs/console.md."""
