"""A command that works as it stands, and who holds a port that is taken."""

from __future__ import annotations

import os
import shlex
import socket
from pathlib import Path

import pytest

from service.start_lines import example_command, taken_port

TABLE = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def test_the_example_names_a_picture_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (tmp_path, Path(__file__).parents[2]):
        monkeypatch.chdir(folder)
        command = shlex.split(example_command("http://127.0.0.1:8000"))
        assert command[:2] == ["curl", "-F"]
        assert Path(command[2].removeprefix("file=@")).read_bytes().startswith(b"\xff\xd8\xff")
        assert command[3:] == ["http://127.0.0.1:8000/segment?format=overlay", "-o", "overlay.png"]
    assert command[2] == "file=@service/page/static/examples/street.jpg"


def test_the_process_that_listens_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
        assert taken_port(port).startswith(f"process {os.getpid()} (")
        assert f"--port {min(port + 1, 65535)}, or a free one with --port 0" in taken_port(port)


def test_what_this_user_may_not_see_is_another_process(tmp_path: Path) -> None:
    row = "   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0        0 4711 1\n"
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "tcp").write_text(TABLE + row)
    (tmp_path / "1").mkdir()  # its folder of open files cannot be read
    assert taken_port(8000, tmp_path).startswith("another process listens there;")
    (tmp_path / "7" / "fd").mkdir(parents=True)
    (tmp_path / "7" / "fd" / "3").symlink_to("socket:[4711]")
    (tmp_path / "7" / "cmdline").write_bytes(b"nginx\0" + b"x" * 100 + b"\0")
    assert taken_port(8000, tmp_path).startswith(f"process 7 (nginx {'x' * 53}…) listens there;")
    assert taken_port(8001, tmp_path).startswith("another process listens there;")


def test_without_the_systems_lists_there_is_still_a_way_out(tmp_path: Path) -> None:
    assert taken_port(65535, tmp_path / "absent").startswith(
        "another process listens there; choose another with --port"
    )
