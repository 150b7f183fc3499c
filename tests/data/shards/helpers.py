"""What the tests of shards share."""

import http.server
import io
import tarfile

from resnets.data.samples import fingerprint
from resnets.support.errors import UserError


class RecordingHandler(http.server.SimpleHTTPRequestHandler):
    requests = None

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.requests.append(self.path.rpartition("/")[2])
        if "broken-off" in self.path:
            self.send_response(200)
            self.send_header("Content-Length", "10240")
            self.end_headers()
            self.wfile.write(bytes(1024))
        else:
            super().do_GET()


def assert_same(one, other, same_bytes=True):
    assert one.classes == other.classes
    assert fingerprint(one) == fingerprint(other)
    for i in range(len(one)):
        if same_bytes and not one.name(i).endswith("bmp"):
            assert one.read(i) == other.read(i)


def cut(path, keep=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


def tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))


def refusing_index(real):
    def write(path, content):
        if path.suffix == ".npz":
            raise UserError("the disk is full", str(path))
        real(path, content)

    return write


def samples(count, key="{}", word="{}"):
    kinds = (("jpg", lambda i: b"x%d" % i), ("cls", lambda i: word.format(i % 2).encode()))
    return [(f"{key.format(i)}.{k}", made_of(i)) for i in range(count) for k, made_of in kinds]
