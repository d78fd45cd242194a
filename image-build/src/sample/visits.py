"""Counts visits in Redis and its own starts in a file of its volume; answers HTTP on 127.0.0.1:8081.

GET  /visits  counts one visit and says {"visits": N, "starts": M}
GET  /health  200 if Redis answers
POST /crash   ends the process at once, as a bug would

It needs no more of Python than Debian's python3-minimal has.
"""

import json
import os
import signal
import socket
import sys

VOLUME = "/var/lib/visits"
REDIS = ("127.0.0.1", 6379)


def redis(*words):
    """One command, one answer of the protocol's short kinds (RESP2)."""
    request = b"*%d\r\n" % len(words)
    for word in words:
        request += b"$%d\r\n%s\r\n" % (len(word), word)
    with socket.create_connection(REDIS, timeout=5) as peer:
        peer.sendall(request)
        answer = peer.recv(1024)
    if answer[:1] not in b"+:":
        raise OSError("Redis says " + answer.decode(errors="replace").strip())
    return answer[1:].split(b"\r\n")[0].decode()


def count_start():
    """The number of this start. Written so that a power cut leaves the old number or the new one."""
    path = VOLUME + "/starts"
    try:
        with open(path) as file:
            number = int(file.read()) + 1
    except FileNotFoundError:
        number = 1
    with open(path + ".new", "w") as file:
        file.write(str(number))
        file.flush()
        os.fsync(file.fileno())
    os.rename(path + ".new", path)
    folder = os.open(VOLUME, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
    return number


def answer(line, starts):
    """Status and body for a request's first line."""
    method, path = (line.split() + ["", ""])[:2]
    try:
        if (method, path) == ("GET", "/visits"):
            visits = int(redis(b"INCR", b"visits"))
            print("visit", visits, flush=True)
            return "200 OK", {"visits": visits, "starts": starts}
        if (method, path) == ("GET", "/health"):
            return "200 OK", {"redis": redis(b"PING")}
    except OSError as error:
        print("Redis does not answer:", error, file=sys.stderr, flush=True)
        return "503 Service Unavailable", {"error": str(error)}
    if (method, path) == ("POST", "/crash"):
        print("crashing, as I was told to", file=sys.stderr, flush=True)
        os._exit(70)
    return "404 Not Found", {"error": "there is no such page"}


def serve(peer, starts):
    peer.settimeout(5)
    with peer, peer.makefile("rb") as stream:
        line = stream.readline(1024).decode(errors="replace")
        while stream.readline(8192).strip():
            pass
        status, body = answer(line, starts)
        text = json.dumps(body) + "\n"
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n"
        peer.sendall((head + text).encode())


def main():
    # The first process of a pid namespace ignores a signal that it has not asked for.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    starts = count_start()
    print("start", starts, flush=True)
    listener = socket.create_server(("127.0.0.1", 8081))
    while True:
        peer, _ = listener.accept()
        try:
            serve(peer, starts)
        except OSError as error:
            print("a client went away:", error, file=sys.stderr, flush=True)


main()
