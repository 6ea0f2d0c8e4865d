"""`merge --check` of models of the hub: headers and small files are fetched, weights are not."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner
from hub_models import write_model

from netweight.cli.main import cli


def test_no_weights_are_fetched(hub, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = []
    for name in "ab":
        tensors = write_model(tmp_path / name)
        sizes.append(sum(values.nbytes for values in tensors.values()))
        hub.publish(f"org/{name}", tmp_path / name)
    hub.clear()
    Path("m.yml").write_text(
        "merge_method: linear\nmodels: [{model: org/a}, {model: org/b}]\nparameters: {weight: [0.25, 1]}\n"
    )
    said = CliRunner().invoke(cli, ["merge", "m.yml", "out", "--check", "--format", "json"])
    assert said.exit_code == 0, said.output
    (recipe,) = json.loads(said.output)["recipes"]
    assert recipe["parameters"] == len(tensors)
    assert hub.sent() < sum(sizes) // 20
    assert not Path("out").exists()
