"""Every way to spoil a result on disk is named; what was written comes back intact; a recipe makes its units again."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from algo_royale.costs import CostRules
from algo_royale.holds import HoldRules
from algo_royale.portfolio.sizing import AccountRules, OrderPolicy, OrderType
from algo_royale.portfolio.weights import WeightConfig
from algo_royale.research import artifacts, audit, stages
from algo_royale.research import plan as planning
from algo_royale.research.optimise import Objective
from algo_royale.research.plan import ResearchConfig
from research.test_stages import MILD, config, data_folder, market, write_market

SEARCH = "signal/AAA/RSIStrategy/{window}/optimization_result.json"
VERDICT = "signal/AAA/RSIStrategy/evaluation_result.json"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ResearchConfig:
    """A small run, never to be changed."""
    folder = tmp_path_factory.mktemp("audit")
    found = config(
        data_folder(folder / "data"), folder / "artifacts", symbols=("AAA", "BBB"), trials=3,
        portfolios=("EqualWeightPortfolioStrategy",),
    )  # fmt: skip
    stages.run_all(found)
    return found


@pytest.fixture
def copied(made: ResearchConfig, tmp_path: Path) -> ResearchConfig:
    """The same run, to be spoiled."""
    shutil.copytree(made.artifacts_root, tmp_path / "a")
    return replace(made, artifacts_root=tmp_path / "a")


def said(config: ResearchConfig, **more: Any) -> list[tuple[str, str]]:
    return [(d.file, d.what) for d in audit.verify(config.artifacts_root, **more).differences]


def test_a_run_as_it_was_written_is_intact(made: ResearchConfig) -> None:
    found = audit.verify(made.artifacts_root)

    assert found.differences == () and found.left == ()
    assert found.checked == len(list(made.artifacts_root.rglob("*.json")))


def edit(path: Path, change: Callable[[dict[str, Any]], None], *, tell_manifest: bool = False) -> None:
    """Change an artifact and spell it well; `tell_manifest` forges its digest too."""
    document = artifacts.read(path)
    change(document)
    shell = {document["window"]["window_id"]: document} if "window" in document else document
    path.write_bytes(artifacts.dumps(shell))
    if tell_manifest:
        found = audit.manifest_above(path)
        assert found is not None
        root, manifest = found
        manifest["units"][path.resolve().relative_to(root).as_posix()]["sha256"] = artifacts.digest(document)
        (root / artifacts.MANIFEST).write_bytes(artifacts.dumps(manifest))


def flip_verdict(document: dict[str, Any]) -> None:
    document["is_viable"] = not document["is_viable"]


def pass_a_check(document: dict[str, Any]) -> None:
    document["checks"][0]["passed"] = not document["checks"][0]["passed"]


def more_trials(document: dict[str, Any]) -> None:
    document["optimization"]["meta"]["recipe"]["trials"] += 1


def no_return(document: dict[str, Any]) -> None:
    document["test"]["metrics"]["total_return"] = "much"


def other_name(document: dict[str, Any]) -> None:
    document["optimization"]["strategy_id"] = "0" * 16


def better_return(document: dict[str, Any]) -> None:
    document["test"]["metrics"]["total_return"] += 0.01


def other_symbol(document: dict[str, Any]) -> None:
    document["symbol"] = "BBB"


def a_count_less(document: dict[str, Any]) -> None:
    document["optimization"]["trials"]["recorded"] -= 1


@pytest.mark.parametrize(
    ("key", "change", "forged", "words"),
    [
        (VERDICT, flip_verdict, False, "not what the run wrote: its digest is"),
        (VERDICT, flip_verdict, True, "its checks make it"),
        (VERDICT, pass_a_check, True, "its checks do not follow from their values"),
        (VERDICT, other_symbol, True, "it is signal/BBB/RSIStrategy/evaluation_result.json"),
        (SEARCH, more_trials, True, "its config_hash is not the digest of its recipe"),
        (SEARCH, no_return, True, "schema: test.metrics.total_return is 'much'"),
        (SEARCH, other_name, True, "strategy_id is 0000000000000000, its parameters make"),
        (SEARCH, better_return, True, "test_returns of trials.npz compound to"),
        (SEARCH, a_count_less, True, "trials.npz has 3 trials, the artifact 2"),
    ],
)  # fmt: skip
def test_a_changed_value_is_named_even_if_the_manifest_was_changed_with_it(
    copied: ResearchConfig, key: str, change: Callable[[dict[str, Any]], None], forged: bool, words: str
) -> None:
    path = copied.artifacts_root / key.format(window=stages.plan(copied).windows[1].window_id)
    edit(path, change, tell_manifest=forged)

    found = said(copied)

    assert {file for file, _ in found} == {path.relative_to(copied.artifacts_root).as_posix()}
    assert words in found[0][1]


def test_changed_bytes_are_named_whatever_they_spell(copied: ResearchConfig) -> None:
    root, window = copied.artifacts_root, stages.plan(copied).windows[0].window_id
    spaced, cut = root / VERDICT, root / VERDICT.replace("RSI", "MeanReversion")
    gone, beside = (
        root / "signal/BBB/summary_result.json",
        (root / SEARCH.format(window=window)).with_name("trials.npz"),
    )
    spaced.write_bytes(spaced.read_bytes().replace(b": true", b":  true"))
    cut.write_bytes(cut.read_bytes()[:300])
    gone.unlink()
    beside.write_bytes(beside.read_bytes()[:-1] + b"x")

    found = dict(said(copied))

    assert found[VERDICT] == "not spelled as it was written: somebody or something changed it"
    assert found[cut.relative_to(root).as_posix()].startswith("(")
    assert found["signal/BBB/summary_result.json"] == "missing, although the manifest says 'complete'"
    assert "its checksum differs" in found[SEARCH.format(window=window)]
    assert len(found) == 4


def test_other_bars_are_named_for_each_artifact_that_was_made_from_them(copied: ResearchConfig, tmp_path: Path) -> None:
    """One price of AAA differs: its own artifacts and the portfolio's are named, those of BBB are not."""
    folder = data_folder(tmp_path / "data")
    columns = market(1, 560)
    columns["volume"][300] += 1
    write_market(folder, "AAA", columns)

    found = said(copied, data=str(folder))

    assert {file.split("/")[1] for file, _ in found if "/" in file} == {"AAA", "AAA_BBB"}
    assert all("made from other bars" in what for _, what in found)
    assert said(copied, data=str(tmp_path / "nowhere"))[0][1].startswith("its bars cannot be read: ")


def test_other_code_and_statuses_are_named(copied: ResearchConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = artifacts.read(copied.artifacts_root / artifacts.MANIFEST)
    key = next(key for key in manifest["units"] if "AAA/RSI" in key and "optimization" in key)
    told = {"complete": "no_feasible_trial", "no_feasible_trial": "complete"}
    manifest["units"][key]["status"] = told[manifest["units"][key]["status"]]
    (copied.artifacts_root / artifacts.MANIFEST).write_bytes(artifacts.dumps(manifest))
    monkeypatch.setattr(artifacts, "code_version", lambda: "9.9.9+s0")

    (file, what), (unit, other) = said(copied)

    assert file == "run_manifest.json" and what.endswith("this program is 9.9.9+s0")
    assert unit == key and "its status is" in other


def test_one_file_is_checked_alone_and_files_of_earlier_runs_are_no_difference(copied: ResearchConfig) -> None:
    root = copied.artifacts_root
    shutil.copytree(root / "signal/AAA", root / "signal/OLD")
    edit(root / "signal/BBB/summary_result.json", flip_verdict)

    assert said(copied, only=VERDICT) == []
    assert audit.verify(root).left == tuple(
        sorted(p.relative_to(root).as_posix() for p in (root / "signal/OLD").rglob("*_result.json"))
    )
    assert next(what for _, what in said(copied, only="signal/OLD/summary_result.json")) == (
        "the manifest of its run does not know it"
    )


def test_the_recipe_in_an_artifact_makes_its_units_again_to_the_hash(made: ResearchConfig, tmp_path: Path) -> None:
    """Costs, rules and thresholds that differ from every default come back from the JSON alone."""
    rules = AccountRules(
        costs=CostRules(slippage_bps=Decimal("7.5"), taf_cap=Decimal(8)),
        lot=Decimal("0.5"),
        settlement_days=2,
        holds=HoldRules(post_fill_delay_s=60, no_day_trades=True),
        policy=OrderPolicy(type=OrderType.MARKETABLE_LIMIT, collar_bps=Decimal("12.5")),
    )
    odd = replace(
        made, artifacts_root=tmp_path, costs=rules.costs, rules=rules, rf=0.02, weights=WeightConfig(max_weight=0.6),
        objective=Objective(names=("total_return", "calmar_ratio")), viability=replace(MILD, threshold=0.4, hard_checks=()),
    )  # fmt: skip
    one_of_each = {unit.stage: unit for unit in stages.plan(odd).units}
    assert len(one_of_each) == 6
    for unit in one_of_each.values():
        recipe = json.loads(artifacts.dumps(planning.unit_recipe(unit, odd)))
        again = planning.from_recipe(
            recipe, tmp_path / "elsewhere", made.data, symbols=(unit.symbol or "AAA",), strategies=(unit.strategy or "RSIStrategy",)
        )  # fmt: skip

        assert artifacts.content_hash(recipe) == unit.config_hash
        twin = stages.plan(again).unit(unit.key)
        assert (twin.config_hash, twin.data_fingerprint, twin.span) == (
            unit.config_hash,
            unit.data_fingerprint,
            unit.span,
        )


def test_what_an_artifact_needs_is_everything_below_it_and_nothing_else(made: ResearchConfig) -> None:
    plan = stages.plan(made)
    one = audit.closure(plan, VERDICT)

    assert {u.stage for u in one} == {"signal_optimization", "signal_evaluation"}
    assert {u.symbol for u in one} == {"AAA"} and len(one) == 2 * len(plan.windows) + 1
    assert one[-1].key == VERDICT


def test_where_two_files_differ_is_said_value_by_value_and_array_by_array(
    copied: ResearchConfig, made: ResearchConfig
) -> None:
    key = SEARCH.format(window=stages.plan(made).windows[0].window_id)
    old, new = made.artifacts_root / key, copied.artifacts_root / key
    assert audit.compare(old, new) == []
    document = artifacts.read(new)
    arrays = artifacts.read_sidecar(new.with_name("trials.npz"), document["sidecar"]["sha256"])
    arrays["values"] = arrays["values"] + 1.0
    content = artifacts.npz(arrays)
    new.with_name("trials.npz").write_bytes(content)

    def change(document: dict[str, Any]) -> None:
        document["sidecar"] = stages.sidecar_entry(content)
        document["optimization"]["meta"]["created_at"] = "another day"
        document["optimization"]["best_trial"] = -1
        del document["test"]["double_costs"]

    edit(new, change)
    found = audit.compare(old, new)

    assert "array values of trials.npz differs" in found
    assert "test.double_costs is only in the old one" in found
    assert any(line.startswith("optimization.best_trial was ") and line.endswith("is -1") for line in found)
    assert any(line.startswith("sidecar.sha256 was ") for line in found) and len(found) == 4
    assert not any("created_at" in line for line in found)
