"""`python -m memos_mcp`: the same as the `memos-mcp` command."""

import sys

from memos_mcp.cli import main

if __name__ == "__main__":
    sys.exit(main())
