#!/usr/bin/env python3
"""Lets Espalier download from a server that speaks the Hub's routes, and reads the cache it leaves with huggingface_hub;
then the other way round.

    check_hub_cache.py [--launcher ./espalier]
"""
import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

os.environ.pop("HF_HUB_OFFLINE", None)  # the only server is this script's own

import torch
from huggingface_hub import hf_hub_download, scan_cache_dir, snapshot_download

import family_models
import random_models

REPO, COMMIT = "owner/tiny", "89abcdef" * 5


def serve(folder: Path) -> ThreadingHTTPServer:
    files = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    large = {name for name in files if name.endswith((".safetensors", ".npz"))}

    def etag(name: str) -> str:
        data = files[name]
        if name in large:
            return hashlib.sha256(data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            path = self.path.split("?")[0]
            api, resolve = f"/api/models/{REPO}/revision/", f"/{REPO}/resolve/"
            if path.startswith(api):
                siblings = [dict(rfilename=n, size=len(d), blobId=etag(n),
                                 **(dict(lfs=dict(sha256=etag(n), size=len(d), pointerSize=134)) if n in large else {}))
                            for n, d in files.items()]
                return self.send(json.dumps(dict(id=REPO, modelId=REPO, sha=COMMIT, siblings=siblings)).encode(), body)
            if path.startswith(resolve):
                name = path[len(resolve):].split("/", 1)[1]
                if name in files:
                    return self.send(files[name], body, {"ETag": f'"{etag(name)}"', "X-Repo-Commit": COMMIT})
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def send(self, data: bytes, body: bool, headers: dict = {}) -> None:
            self.send_response(200)
            for key, value in ({"Content-Length": str(len(data))} | headers).items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def inspect(launcher: str, name: str, cache: Path, endpoint: str, offline: bool) -> dict:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    environment |= {"HF_HUB_CACHE": str(cache), "HF_ENDPOINT": endpoint, **({"HF_HUB_OFFLINE": "1"} if offline else {})}
    done = subprocess.run([launcher, "inspect", name, "--json"], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"FAILED espalier inspect {name}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--launcher", default=str(Path(__file__).parents[2] / "espalier"))
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        family = family_models.families()[0]
        model = family_models.build(family, root / "repo", 3)
        (root / "repo/tokenizer.json").write_text("{}")
        ids = random_models.tokens(torch.Generator().manual_seed(3), 4, 20, model.config.vocab_size)
        x = random_models.residuals(model, ids, 1)
        random_models.sae(torch.Generator().manual_seed(4), "topk", 70, x, 6).save(root / "repo/saes/layer_1", 1)
        server = serve(root / "repo")
        endpoint = f"http://127.0.0.1:{server.server_port}"

        ours = root / "ours"
        assert inspect(a.launcher, REPO, ours, endpoint, False)["kind"] == "model"
        assert inspect(a.launcher, f"{REPO}/saes/layer_1@main", ours, endpoint, False)["d_sae"] == 70
        snapshot = Path(snapshot_download(REPO, cache_dir=ours, local_files_only=True))
        for name in ("model.safetensors", "config.json", "tokenizer.json", "saes/layer_1/cfg.json"):
            found = Path(hf_hub_download(REPO, name, cache_dir=ours, local_files_only=True))
            assert found == snapshot / name and found.read_bytes() == (root / "repo" / name).read_bytes(), name
        report = scan_cache_dir(ours)
        assert not report.warnings and [repo.repo_id for repo in report.repos] == [REPO], report.warnings
        family_models.read(snapshot)
        print("ok     huggingface_hub and transformers read the cache that Espalier wrote")

        shared = root / "shared"
        with ThreadPoolExecutor() as pool:
            found = list(pool.map(lambda _: inspect(a.launcher, REPO, shared, endpoint, False)["kind"], range(4)))
        assert found == ["model"] * 4
        print("ok     several processes fill a cache at once, as the ranks of a job do")

        theirs = root / "theirs"
        for file in (root / "repo").rglob("*"):
            if file.is_file():
                hf_hub_download(REPO, str(file.relative_to(root / "repo")), cache_dir=theirs, endpoint=endpoint)
        server.shutdown()
        assert inspect(a.launcher, REPO, theirs, endpoint, True)["kind"] == "model"
        assert inspect(a.launcher, f"{REPO}/saes/layer_1", theirs, endpoint, True)["d_sae"] == 70
        print("ok     Espalier reads the cache that huggingface_hub wrote, without a network")
    print("3 passed, 0 failed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
