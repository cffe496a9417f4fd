"""A small RTSP camera as a process: ``rtsp_camera.py PORT``. RFC 2326 over TCP, JPEG in RTP by RFC 2435.

Serves one client at a time. Frame n is 96x64 pixels of grey level 4 * (n % 60), 50 a second, counted from each PLAY.
"""

from __future__ import annotations

import socket
import struct
import sys
import time

import cv2
import numpy as np

SDP = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nt=0 0\r\nm=video 0 RTP/AVP 26\r\na=control:video\r\n"


def encode(number: int) -> tuple[bytes, bytes]:
    """Quantisation tables and scan of a baseline JPEG with the standard Huffman tables."""
    image = np.full((64, 96, 3), 4 * (number % 60), np.uint8)
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    tables, at = b"", 2
    while True:
        marker, length = struct.unpack(">HH", data[at : at + 4])
        segment = data[at + 4 : at + 2 + length]
        at += 2 + length
        if marker == 0xFFDB:
            tables += b"".join(segment[i + 1 : i + 65] for i in range(0, len(segment), 65))
        if marker == 0xFFDA:
            return tables, data[at:-2]


def packet(number: int) -> bytes:
    """One interleaved RTP packet that holds all of a frame."""
    tables, scan = encode(number)
    jpeg = struct.pack(">IBBBBBBH", 0, 1, 255, 96 // 8, 64 // 8, 0, 0, len(tables)) + tables + scan
    rtp = struct.pack(">BBHII", 0x80, 0x80 | 26, number & 0xFFFF, number * 1800, 0x1234) + jpeg
    return struct.pack(">BBH", 0x24, 0, len(rtp)) + rtp


def answer(request: str) -> str:
    verb = request.split(" ", 1)[0]
    sequence = next(line for line in request.split("\r\n") if line.lower().startswith("cseq:"))
    head = f"RTSP/1.0 200 OK\r\n{sequence}\r\n"
    if verb == "OPTIONS":
        return head + "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n\r\n"
    if verb == "DESCRIBE":
        return head + f"Content-Type: application/sdp\r\nContent-Length: {len(SDP)}\r\n\r\n{SDP}"
    if verb == "SETUP":
        return head + "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n\r\n"
    return head + "Session: 1\r\n\r\n"


def serve(client: socket.socket) -> None:
    while True:
        request = b""
        while b"\r\n\r\n" not in request:
            received = client.recv(4096)
            if not received:
                return
            request += received
        client.sendall(answer(request.decode()).encode())
        if request.startswith(b"PLAY"):
            break
    number = 0
    while True:
        client.sendall(packet(number))
        number += 1
        time.sleep(0.02)


def main() -> None:
    with socket.create_server(("127.0.0.1", int(sys.argv[1])), reuse_port=True) as server:
        print("ready", flush=True)
        while True:
            client, _ = server.accept()
            with client:
                try:
                    serve(client)
                except OSError:
                    continue


if __name__ == "__main__":
    main()
