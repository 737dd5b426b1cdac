"""Slides in an object store, with Snakemake's storage plugin and a server that speaks S3 on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import boto3
import numpy as np
import pytest
import tifffile
from moto.server import ThreadedMotoServer

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "s3://slides/cohort/s1.tif"
MANIFEST = "results/slides/S1.json"


class Server:
    """A server with the bucket ``slides``, and the requests that it has answered."""

    def __init__(self, folder: Path) -> None:
        self.moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self.moto.start()
        self.url = "http://{}:{}".format(*self.moto.get_host_and_port())
        self.client = boto3.client("s3", endpoint_url=self.url, region_name="us-east-1")
        self.client.create_bucket(Bucket="slides")
        self.folder = folder

    def put(self, seed: int) -> None:
        """Upload a slide; another seed gives other pixels."""
        pixels = np.random.default_rng(seed).integers(0, 255, (512, 512, 3), dtype=np.uint8)
        path = self.folder / "upload.tif"
        with tifffile.TiffWriter(path) as file:
            place = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
            file.write(pixels, tile=(256, 256), photometric="rgb", compression="jpeg", **place)
        self.client.upload_file(str(path), "slides", "cohort/s1.tif")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    os.environ |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    server = Server(tmp_path_factory.mktemp("uploads"))
    yield server
    server.moto.stop()


@pytest.fixture(scope="module")
def project(tmp_path_factory, server):
    """A project with one slide, which is in the store."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "config.yaml").write_text("sheet: slides.tsv\ngrids: {x5: {size: 64, mpp: 2.0}}\n")
    (folder / "slides.tsv").write_text(f"slide_id\tpath\tpatient_id\nS1\t{ADDRESS}\tP1\n")
    server.put(1)
    return folder


def snakemake(project, server, *arguments) -> str:
    """Run Snakemake; returns what it printed."""
    place = ["--snakefile", str(ROOT / "Snakefile"), "--configfile", "config.yaml", "--cores", "2"]
    place += ["--storage-s3-endpoint-url", server.url]
    command = [sys.executable, "-m", "snakemake", *place, *arguments, "--", MANIFEST]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    return done.stdout + done.stderr


def test_a_slide_is_fetched_converted_and_fetched_again_only_when_its_bytes_change(project, server):
    snakemake(project, server)
    first = json.loads((project / MANIFEST).read_text())
    assert (first["status"], first["levels"][0]["width"]) == ("ok", 512)
    assert ADDRESS in json.loads((project / f"{MANIFEST}.meta.json").read_text())["inputs"]
    assert not list((project / ".snakemake").glob("storage/s3/slides/**/*.tif")), "the copy is removed"

    server.put(1)
    assert "Nothing to be done" in snakemake(project, server)
    server.put(2)
    snakemake(project, server)
    assert json.loads((project / MANIFEST).read_text())["sha256"] != first["sha256"]


def test_a_slide_that_is_gone_is_used_from_its_store(project, server):
    snakemake(project, server)
    server.client.delete_object(Bucket="slides", Key="cohort/s1.tif")
    assert "1 without their file, used from the store: S1" in snakemake(project, server, "--dry-run")
    (project / MANIFEST).rename(project / "aside.json")
    assert f"slide S1: {ADDRESS} does not exist, and there is no store of it" in snakemake(project, server)


def test_results_in_a_storage_are_refused(project, server):
    places = ("--default-storage-provider", "s3", "--default-storage-prefix", "s3://slides/results")
    assert "only slides can be in an object store" in snakemake(project, server, "--dry-run", *places)
