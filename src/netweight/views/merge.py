"""What `netweight merge` prints."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from netweight.checkpoint.tensor import Skipped
from netweight.errors import printable
from netweight.views.console import is_fitted, stdout_console
from netweight.views.fitted_table import name, numbers, print_table
from netweight.views.short_names import cells, left_out_lines, shorten_names
from netweight.views.text import human_bytes, human_count, print_json, print_more, print_notes

if TYPE_CHECKING:
    from rich.console import Console

    from netweight.jobs.merge.as_adapter import MergedAdapter
    from netweight.jobs.merge.plan import Prepared
    from netweight.jobs.merge.preflight import Preflight, SettingFound
    from netweight.jobs.merge.result import Merged
    from netweight.jobs.merge.targets import MergePlan
    from netweight.jobs.merge.weights import Weighting
    from netweight.merging.course import Value

__all__ = ["display_names", "show_adapter", "show_check", "show_merged", "show_plan"]

_LISTED = 8
_LONG = 40  # columns of a reference from which on all are shortened
_NAME_LIMIT = 2000
_FEW = 3  # values of a setting that are listed


def show_plan(
    prepared: Prepared,
    weighting: Weighting | None,
    plan: MergePlan,
    output: str | None,
    output_format: str,
    *,
    verbose: bool,
) -> None:
    """Print what the merge will do: weights, norms, cosines, bytes."""
    from netweight.jobs.merge.record import weighting_record

    weights = weighting_record(prepared, weighting)
    if output_format == "json":
        print_json(_planned(prepared, weights, plan))
    elif output_format == "human":
        names = display_names(plan.references)
        click.echo(f"method     {plan.recipe.method}")
        if plan.recipe.base is not None:
            click.echo(f"base       {names[plan.recipe.base]}")
        if weights:
            _show_weights(weights, names, verbose=verbose)
        else:
            for reference in plan.references:
                if reference != plan.recipe.base:
                    click.echo(f"model      {names[reference]}")
        click.echo(f"parameters {len(plan.targets)}, {human_count(sum(t.size for t in plan.targets))} elements")
        again = ", and once more to measure the norms" if prepared.measures else ""
        click.echo(f"to read    {human_bytes(prepared.read)}{again}")
        where = f" to {printable(output, 300)} ({_free(Path(output))} free)" if output else ""
        click.echo(f"to write   {human_bytes(prepared.written)} in {_files(len(prepared.shards))}{where}")
        click.echo(f"memory     about {human_bytes(prepared.memory)} with {prepared.workers} workers")
        click.echo(f"device     {prepared.choice.name}: {prepared.choice.why}")
        if verbose:
            for target in plan.targets:
                click.echo(
                    f"  {printable(target.name)} {list(target.shape)} {target.dtype} {target.method or 'copied'}"
                )
        for line in left_out_lines(plan.dropped, verbose=verbose):
            click.echo(line)
        print_notes(plan.notes)
        click.echo("nothing was written; leave out --dry-run to run it")


def show_check(found: Sequence[Preflight], late: str, output_format: str, *, verbose: bool) -> None:
    """Print what `--check` has found of every recipe; `late`: why some are not planned yet."""
    if output_format == "json":
        recipes = [_planned(one.prepared, None, one.plan) | _checked(one) for one in found]
        print_json({"job": "merge", "check": True, "recipes": recipes, "late": late})
        return
    if output_format != "human":
        return
    for number, one in enumerate(found, 1):
        if len(found) > 1 or late:
            name = one.plan.recipe.name
            click.echo(f"document   {number}, which makes {'the result' if name is None else printable(name)}")
        _show_preflight(one, verbose=verbose)
    if late:
        print_notes([late])
    what = "what is planned so far" if late else "this"
    click.echo(f"{what} can be merged; no weights were read, and nothing was written")


def _checked(one: Preflight) -> dict[str, Any]:
    settings = [
        {"setting": s.name, "model": s.model, "values": [{"value": v, "parameters": n} for v, n in s.values]}
        for s in one.settings
    ]
    return {"name": one.plan.recipe.name, "settings": settings, "tokens": one.tokens, "notes": list(one.notes)}


def _show_preflight(one: Preflight, *, verbose: bool) -> None:
    plan, prepared = one.plan, one.prepared
    names = display_names(plan.references)
    click.echo(f"method     {plan.recipe.method}")
    for reference in plan.references:
        click.echo(f"{'base ' if reference == plan.recipe.base else 'model'}      {names[reference]}")
    copied = sum(target.method is None for target in plan.targets)
    click.echo(
        f"parameters {len(plan.targets)}, {human_count(sum(t.size for t in plan.targets))} elements:"
        f" {len(plan.targets) - copied} merged, {copied} copied"
    )
    types = sorted({str(target.dtype) for target in plan.targets if target.method is not None})
    click.echo(
        f"writes     {human_bytes(prepared.written)} in {_files(len(prepared.shards))}, merged ones as"
        f" {', '.join(types)}; reads {human_bytes(prepared.read)}"
    )
    for setting in one.settings:
        whose = "" if setting.model is None else f" of {names[setting.model]}"
        click.echo(f"setting    {setting.name}{whose}: {_values(setting)}")
    rows = "by token" if plan.tokens is not None else "by number"
    whose = f"that of {names[plan.references[plan.tokenizer_from]]}, {one.tokens} tokens" if one.tokens else "none"
    click.echo(f"tokenizer  {whose}; rows of tokens are paired {rows}")
    for line in left_out_lines(plan.dropped, verbose=verbose):
        click.echo(line)
    print_notes(one.notes)


def _values(setting: SettingFound) -> str:
    """A value, or their range and how many parameters have which."""
    if len(setting.values) == 1:
        return _shown(setting.values[0][0])
    if len(setting.values) <= _FEW:
        return ", ".join(f"{_shown(value)} for {count} parameters" for value, count in setting.values)
    numbers_found = [value for value, _ in setting.values]
    return f"{_shown(min(numbers_found))} to {_shown(max(numbers_found))}, {len(numbers_found)} values"


def _shown(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:.6g}"


def show_adapter(result: MergedAdapter, *, verbose: bool = False) -> None:
    """Print what a merge to an adapter gave: the weights, ranks and errors."""
    record = result.record
    if record["weights"]:
        _show_weights(record["weights"], display_names([entry["ref"] for entry in record["inputs"]]), verbose=verbose)
    rows = record["modules"]
    ranks = sorted({row["rank"] for row in rows.values()})
    said = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"
    click.echo(f"{len(rows)} modules, {said}; relative error of the sum {result.relative_error:.3g}")
    for name_, row in rows.items() if verbose else ():
        click.echo(f"  {printable(name_)}  rank {row['rank']}  l2 {row['l2']:.6g}  error {row['relative_error']:.3g}")
    print_notes(result.notes)
    click.echo(f"written to {printable(str(result.output), 300)}")


def show_merged(result: Merged, *, verbose: bool = False) -> None:
    """Print the weights, what was left out, and what was written."""
    record = result.record
    if result.weights:
        _show_weights(result.weights, display_names([entry["ref"] for entry in record["inputs"]]), verbose=verbose)
    parameters = record["parameters"]
    elements = sum(p["elements"] for p in parameters.values())
    files = len({p["file"] for p in parameters.values()})
    for line in left_out_lines([Skipped(e["name"], e["reason"]) for e in record["dropped"]], verbose=verbose):
        click.echo(line)
    click.echo(f"{len(parameters)} parameters, {human_count(elements)} elements in {_files(files)}")
    click.echo(f"written to {printable(str(result.output), 300)}")


def display_names(references: Sequence[str]) -> dict[str, str]:
    """How references are shown: as given where all are short or no width is to be kept to, else by as many last parts
    of their paths as tell them apart.
    """
    shown = {reference: printable(reference, _NAME_LIMIT) for reference in references}
    if all(cells(text) <= _LONG for text in shown.values()) or not is_fitted(stdout_console()):
        return shown
    from netweight.jobs.merge.card import public_name

    public = {reference: public_name(reference) for reference in references}
    parts = {reference: Path(reference).parts for reference in references}
    depth = 0
    while len(set(public.values())) < len(public) and depth < max(map(len, parts.values())):
        depth += 1
        public = {reference: "/".join(parts[reference][-depth:]) for reference in references}
    return {reference: printable(name) for reference, name in public.items()}


def _planned(prepared: Prepared, weights: Mapping[str, Any] | None, plan: MergePlan) -> dict[str, Any]:
    from netweight.merging.recipe.recipe import write_recipe

    return {
        "job": "merge",
        "method": plan.recipe.method,
        "models": list(plan.references),
        "parameters": len(plan.targets),
        "bytes_to_read": (2 if prepared.measures else 1) * prepared.read,
        "bytes_to_write": prepared.written,
        "files": [{"name": s.name, "bytes": s.size} for s in prepared.shards],
        "workers": prepared.workers,
        "expected_memory": prepared.memory,
        "device": prepared.choice.name,
        "device_reason": prepared.choice.why,
        "weights": weights,
        "recipe": write_recipe(plan.recipe),
        "dropped": [{"name": s.name, "reason": s.reason} for s in plan.dropped],
        "notes": list(plan.notes),
    }


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def _free(folder: Path) -> str:
    there = next(above for above in (folder.absolute(), *folder.absolute().parents) if above.exists())
    return human_bytes(shutil.disk_usage(there).free)


def _show_weights(weights: Mapping[str, Any], names: Mapping[str, str], *, verbose: bool) -> None:
    console = stdout_console()
    about = [f"{key} {value}" for key, value in weights.items() if key in ("mode", "alpha", "beta", "granularity")]
    click.echo(f"weights    {', '.join(about)}")
    _show_models(weights, names, console)
    if weights.get("remark"):
        click.echo(f"note: {weights['remark']}")
    by_layer = list((weights.get("by_layer") or {}).items())
    shown = by_layer if verbose else by_layer[:_LISTED]
    for label, by_model in shown:
        click.echo(f"  {printable(label)}: {' '.join(f'{w:.4f}' for w in by_model)}")
    print_more(len(by_layer) - len(shown), "groups", indent="  ")
    _show_cosines(weights, names, console, verbose=verbose)
    if weights.get("merged_l2") is not None:
        click.echo(f"L2 of the weighted sum of the task vectors: {weights['merged_l2']:.6g}")


def _show_models(weights: Mapping[str, Any], names: Mapping[str, str], console: Console) -> None:
    from netweight.jobs.merge.result import weight_text

    by = f"by {weights['granularity']}" if weights.get("granularity") in ("layer", "parameter") else "by parameter"
    norms = any(model["l2"] is not None for model in weights["models"])
    rows = []
    for model in weights["models"]:
        norm = [] if not norms else ["" if model["l2"] is None else f"{model['l2']:.6g}"]
        weight = by if model["weight"] is None else weight_text(model["weight"])
        rows.append((names[model["model"]], *norm, weight))
    print_table(console, [name("model"), *numbers(*(["L2"] if norms else []), "weight")], rows)


def _show_cosines(weights: Mapping[str, Any], names: Mapping[str, str], console: Console, *, verbose: bool) -> None:
    cosines = weights.get("cosines")
    if not cosines or len(cosines) < 2:
        return
    fitting = [names[model["model"]] for model in weights["models"]]
    room = (console.width - len("cosine +0.0000 between  and ")) // 2
    if any(cells(name) > room for name in fitting):
        fitting = shorten_names(fitting, max(room, 12))
    pairs = [
        (cosines[i][j], fitting[j], fitting[i])
        for i in range(len(cosines))
        for j in range(i)
        if cosines[i][j] is not None
    ]
    shown = pairs if verbose else sorted(pairs, key=lambda pair: -abs(pair[0]))[:_LISTED]
    for cosine, a, b in shown:
        click.echo(f"cosine {cosine:+.4f} between {a} and {b}")
    print_more(len(pairs) - len(shown), "pairs")
