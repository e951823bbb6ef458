"""The load client: it counts exactly what a server did to it, and goes nowhere but loopback."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from collections import Counter, deque
from pathlib import Path
from typing import Any

import pytest

from bleen.demo.load import Options, loopback_target, next_ask, run
from bleen.demo.load_report import FAILURES_LISTED, Outcome, Record, write_report
from bleen.demo.load_user import Target, User, whole_answer

DEADLINE_S = 20.0


class ScheduledServer:
    """Does to the nth request what `schedule` says; counts what it did. `ok` where nothing is said.

    ok, error (500), ok-and-close (orderly), close-idle (closes after a whole answer without saying so),
    drop (closes without an answer), half (closes within the answer), silent (no answer), nonsense.
    """

    def __init__(self, schedule: dict[int, str]) -> None:
        self.schedule = schedule
        self.done: Counter[str] = Counter()
        self.connections = 0
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> ScheduledServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()

    @property
    def requests(self) -> int:
        return self.done.total()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while await self._answer_one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """True while the connection goes on."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        if "content-length: " in head:
            await reader.readexactly(int(head.partition("content-length: ")[2].partition("\r\n")[0]))
        does = self.schedule.get(self.requests + 1, "ok")
        self.done[does] += 1
        if does == "drop":
            return False
        if does == "silent":
            await reader.read()
            return False
        if does == "nonsense":
            writer.write(b"SMTP 220 hello\r\n\r\n")
            return True
        version = "1.1.0" if self.requests % 2 else "1.0.0"
        environment = "green" if self.requests % 2 else "blue"
        status = "500 Internal Server Error" if does == "error" else "200 OK"
        closing = "Connection: close\r\n" if does == "ok-and-close" else ""
        answer = (
            f"HTTP/1.1 {status}\r\nX-Version: {version}\r\nX-Environment: {environment}\r\n{closing}Content-Length: 2\r\n\r\n{{}}".encode()
        )
        writer.write(answer[:-1] if does == "half" else answer)
        await writer.drain()
        return does in ("ok", "error")


async def load(port: int, report: Path, **changes: Any) -> dict[str, Any]:
    """The final report of a load of half a second, 100 requests a second over 4 connections."""
    options = {"connections": 4, "rate": 100.0, "seconds": 0.5, **changes}
    async with asyncio.timeout(DEADLINE_S):
        await run(Options(Target("127.0.0.1", port), report=report, **options), asyncio.Event())
    return figures_of(report)


def figures_of(report: Path) -> dict[str, Any]:
    return dict(json.loads(report.read_text()))


class TestCounting:
    async def test_every_request_is_counted_once_as_the_server_saw_it(self, tmp_path: Path) -> None:
        schedule = {3: "error", 7: "drop", 11: "half", 13: "ok-and-close", 17: "close-idle", 19: "error", 23: "drop", 29: "nonsense"}
        async with ScheduledServer(schedule) as server:
            report = await load(server.port, tmp_path / "report.json", seconds=1)
        assert server.requests > 40
        assert report["requests"] == server.requests
        assert report["broken_connections"] == server.done["drop"] + server.done["half"] == 3
        assert report["failed"] == 3 + server.done["error"] + server.done["nonsense"] == 6
        good = server.done["ok"] + server.done["ok-and-close"] + server.done["close-idle"]
        assert report["statuses"] == {"0": 4, "200": good, "500": 2}
        assert server.connections == 4 + 6  # the first ones, and one for each that was closed

    async def test_requests_and_failures_are_told_apart_by_version_and_second(self, tmp_path: Path) -> None:
        async with ScheduledServer({5: "error", 9: "error"}) as server:  # the odd ones are green's
            report = await load(server.port, tmp_path / "report.json")
        rows = {(row["version"], row["environment"]): row for row in report["versions"]}
        assert rows["1.1.0", "green"] == {
            "version": "1.1.0",
            "environment": "green",
            "requests": (server.requests + 1) // 2,
            "failed": 2,
        }
        assert rows["1.0.0", "blue"]["requests"] == server.requests // 2
        assert rows["1.0.0", "blue"]["failed"] == 0
        timeline = report["timeline"]
        assert sum(row["requests"] for row in timeline) == server.requests
        assert sum(row["failed"] for row in timeline) == 2
        assert sum(row["environments"].get("green", 0) for row in timeline) == rows["1.1.0", "green"]["requests"]

    async def test_every_failure_is_listed_with_time_status_and_version(self, tmp_path: Path) -> None:
        async with ScheduledServer({5: "error", 8: "drop"}) as server:
            began = time.time()
            report = await load(server.port, tmp_path / "report.json")
        error, dropped = report["failures"]
        assert (error["status"], error["version"], error["environment"]) == (500, "1.1.0", "green")
        assert (dropped["status"], dropped["version"]) == (0, "")
        assert "before the whole answer" in dropped["reason"]
        assert error["request"].startswith(("GET /api/v1/accounts/acc-", "POST /api/v1/transfers"))
        assert began <= report["first_failure_at"] == error["at"] <= dropped["at"] == report["last_failure_at"] <= time.time()

    async def test_a_request_without_an_answer_fails_and_breaks_no_connection(self, tmp_path: Path) -> None:
        async with ScheduledServer({5: "silent"}) as server:
            report = await load(server.port, tmp_path / "report.json", answer_limit_s=0.5)
        assert report["requests"] == server.requests
        assert (report["failed"], report["broken_connections"]) == (1, 0)
        assert report["failures"][0]["reason"] == "no answer in 0.5 s"

    async def test_connections_closed_while_idle_are_opened_again_and_not_broken(self, tmp_path: Path) -> None:
        async with ScheduledServer(dict.fromkeys(range(1, 1000), "close-idle")) as server:
            report = await load(server.port, tmp_path / "report.json")
        assert server.connections == server.requests == report["requests"] > 20
        assert (report["failed"], report["broken_connections"]) == (0, 0)

    async def test_a_close_that_the_event_loop_has_not_seen_yet_is_no_broken_connection(self) -> None:
        record, free, loop = Record(), deque[User](), asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            target = Target("127.0.0.1", listener.getsockname()[1])
            user = User(target, record, free)
            async with asyncio.timeout(DEADLINE_S):
                for answered in (1, 2):
                    user.send(next_ask(target))  # the second time the other side has just closed, and nothing ran since
                    with (await loop.sock_accept(listener))[0] as peer:
                        await loop.sock_recv(peer, 65536)
                        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                        while record.requests < answered:
                            await asyncio.sleep(0.005)
            user.close()
        assert (record.requests, record.failed, record.broken) == (2, 0, 0)

    async def test_a_server_that_is_not_there_fails_every_request(self, tmp_path: Path) -> None:
        with socket.socket() as taken:  # bound and not listening: nobody else can take the port
            taken.bind(("127.0.0.1", 0))
            report = await load(taken.getsockname()[1], tmp_path / "report.json")
        assert report["requests"] == report["failed"] > 20
        assert report["broken_connections"] == 0
        assert report["failures"][0]["reason"].startswith("no connection")

    async def test_requests_that_find_no_free_connection_are_given_up_and_counted(self, tmp_path: Path) -> None:
        async with ScheduledServer(dict.fromkeys(range(1, 5), "silent")) as server:
            report = await load(server.port, tmp_path / "report.json", seconds=1, answer_limit_s=1.5)
        assert server.done == {"silent": 4}
        assert (report["requests"], report["failed"]) == (4, 4)
        assert 40 < report["not_sent"] < 100

    async def test_the_rate_is_kept_and_the_traffic_is_mixed(self, tmp_path: Path) -> None:
        async with ScheduledServer({}) as server:
            report = await load(server.port, tmp_path / "report.json", rate=200.0, seconds=2, connections=20)
        assert report["requests"] + report["not_sent"] == pytest.approx(400, abs=60)
        assert 0 < report["latency_ms"]["p50"] <= report["latency_ms"]["p95"] <= report["latency_ms"]["p99"] <= report["latency_ms"]["max"]


class TestReport:
    def test_percentiles_are_right_to_two_percent(self) -> None:
        record = Record()
        for milliseconds in range(1, 1001):
            record.add(Outcome("GET /", 200, milliseconds / 1000))
        latency = record.to_dict()["latency_ms"]
        assert latency["p50"] == pytest.approx(500, rel=0.02)
        assert latency["p95"] == pytest.approx(950, rel=0.02)
        assert latency["p99"] == pytest.approx(990, rel=0.02)
        assert latency["max"] == 1000

    def test_the_list_of_failures_is_bounded_and_says_what_it_leaves_out(self) -> None:
        record = Record()
        for _ in range(FAILURES_LISTED + 5):
            record.add(Outcome("GET /", 502, 0.001))
        report = record.to_dict()
        assert report["failed"] == FAILURES_LISTED + 5
        assert len(report["failures"]) == FAILURES_LISTED
        assert report["failures_not_listed"] == 5

    def test_a_reader_never_sees_a_part_of_a_report(self, tmp_path: Path) -> None:
        path = tmp_path / "report.json"
        write_report(path, {"n": 1})
        with path.open() as before:
            write_report(path, {"n": 2})
            assert json.load(before) == {"n": 1}  # replaced, not overwritten
        assert json.loads(path.read_text()) == {"n": 2}
        assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]

    def test_an_answer_is_whole_with_its_last_byte(self) -> None:
        answer = b"HTTP/1.1 200 OK\r\nx-version: 1\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc"
        assert all(whole_answer(answer[:length]) is None for length in range(len(answer)))
        found = whole_answer(answer)
        assert found is not None
        assert (found.status, found.version, found.closes) == (200, "1", True)

    @pytest.mark.parametrize(
        "answer", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab", b"FTP 200\r\n\r\n", b"HTTP/1.1 x\r\n\r\n"]
    )
    def test_an_answer_that_cannot_be_understood_is_none(self, answer: bytes) -> None:
        with pytest.raises(ValueError, match=r"answer"):
            whole_answer(answer)


class TestProcess:
    async def test_it_reports_while_it_runs_and_ends_in_order_at_sigterm(self, tmp_path: Path) -> None:
        report = tmp_path / "report.json"
        async with ScheduledServer({}) as server:
            url = f"http://localhost:{server.port}"
            process = await asyncio.create_subprocess_exec(*command(url, report), stderr=asyncio.subprocess.PIPE)
            try:
                async with asyncio.timeout(DEADLINE_S):
                    while not (report.exists() and figures_of(report)["requests"] > 20):
                        assert process.returncode is None
                        await asyncio.sleep(0.02)
                    assert figures_of(report)["state"] == "running"
                    process.send_signal(signal.SIGTERM)
                    assert await process.wait() == 0
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        figures = figures_of(report)
        assert figures["state"] == "ended"
        assert figures["requests"] == server.requests
        assert (figures["failed"], figures["broken_connections"]) == (0, 0)

    @pytest.mark.parametrize("url", ["http://192.0.2.1:80", "http://example.com:80"])
    def test_it_refuses_any_place_but_loopback_and_sends_nothing(self, tmp_path: Path, url: str) -> None:
        ended = subprocess.run(command(url, tmp_path / "report.json"), capture_output=True, text=True, timeout=DEADLINE_S, check=False)
        assert ended.returncode == 2
        assert "no loopback address" in ended.stderr
        assert not (tmp_path / "report.json").exists()

    def test_a_report_that_cannot_be_written_ends_it_with_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "report.json").mkdir()
        arguments = command("http://127.0.0.1:9", tmp_path / "report.json")
        ended = subprocess.run(arguments, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
        assert ended.returncode == 1
        assert "the report cannot be written" in ended.stderr

    @pytest.mark.parametrize(
        "url",
        [
            "http://10.0.0.1:80",
            "http://0.0.0.0:80",
            "http://[2001:db8::1]:80",
            "http://[::ffff:192.0.2.1]:80",
            "http://127.0.0.1.example.com:80",
            "http://2130706433:80",
            "http://127.0.0.1@example.com:80",
            "http://user@127.0.0.1:80",
            "http://127.0.0.1",
            "https://127.0.0.1:443",
            "http://127.0.0.1:80/path",
            "http://127.0.0.1:99999",
            "127.0.0.1:80",
            "",
        ],
    )
    def test_an_address_of_another_form_or_place_is_refused(self, url: str) -> None:
        with pytest.raises(argparse.ArgumentTypeError):
            loopback_target(url)

    @pytest.mark.parametrize(
        ("url", "host"), [("http://127.0.0.9:80", "127.0.0.9"), ("http://[::1]:80/", "::1"), ("http://localhost:80", "127.0.0.1")]
    )
    def test_loopback_addresses_are_taken(self, url: str, host: str) -> None:
        assert loopback_target(url) == Target(host, 80)


def command(url: str, report: Path) -> list[str]:
    options = ["--url", url, "--connections", "4", "--rate", "100", "--seconds", "60", "--report", str(report)]
    return [sys.executable, "-m", "bleen.demo.load", *options]
