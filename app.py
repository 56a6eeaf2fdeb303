"""Start the studio: python app.py [--host 127.0.0.1] [--port 7860] [--data FOLDER]."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from pathlib import Path


def main() -> None:
    """Parse options, start worker and completer, serve the page until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on")
    parser.add_argument("--data", type=Path, help="folder for runs; default: ./data")
    parser.add_argument(
        "--server-paths",
        action=argparse.BooleanOptionalAction,
        help="let visitors open checkpoints by their path on this machine; "
        "default: only if no other machine can reach the page. A proxy in front that adds no "
        "header is not noticed: give --no-server-paths there",
    )
    parser.add_argument(
        "--checkpoint-gb", type=float, default=2.0, help="largest checkpoint that can be uploaded"
    )
    options = parser.parse_args()

    os.umask(0o077)  # uploads and weights are for this user's eyes
    if options.data:
        os.environ["L2L_DATA"] = str(options.data.absolute())
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((options.host, options.port))
        except OSError as error:
            reason = error.strerror or "not possible"
            sys.exit(
                f"Cannot listen on {options.host}:{options.port} ({reason}). Choose another port: "
                "make run PORT=7861, or python app.py --port 7861."
            )

    from filelock import FileLock, Timeout

    from l2l_core.jobs.store import data_root
    from ui.processes import Children

    data_root().mkdir(parents=True, exist_ok=True)
    alone = FileLock(data_root() / "studio.lock")  # a second one would wipe the first one's uploads
    try:
        alone.acquire(timeout=0)
    except Timeout:
        sys.exit(
            "A studio runs on this data folder already. Stop it, or choose another folder: "
            "python app.py --data FOLDER."
        )
    children = Children(data_root())
    children.start()  # they import PyTorch while the page is being built
    try:
        import uvicorn

        from ui.server import build

        shown = "localhost" if options.host in ("0.0.0.0", "::") else options.host
        print(f"L2L Unlearning Studio: http://{shown}:{options.port}", flush=True)
        uvicorn.run(
            build(
                data_root(),
                options.host,
                options.port,
                server_paths=options.server_paths,
                checkpoint_limit=int(options.checkpoint_gb * 1024**3),
            ),
            host=options.host,
            port=options.port,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=2,  # open pages hold their connection
        )
    finally:
        children.stop()


if __name__ == "__main__":
    main()
