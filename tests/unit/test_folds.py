"""Published divisions in their authors' layouts, invented: EmoBox's folders and MELD's tables."""

import json

import pytest

from mien import cli
from mien.core.errors import MienError
from mien.data import folds


def emobox(root, name, clips):
    """data/cremad/fold_1/cremad_train_fold_1.jsonl …; clips: (fold, side) -> file names."""
    for (fold, side), names in clips.items():
        file = root / name / f"fold_{fold}" / f"{name}_{side}_fold_{fold}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"key": f"{name}-{n}", "wav": f"downloads/{name}/{n}.wav", "emo": "x"}) for n in names]
        file.write_text("\n".join(lines) + "\n")
    (root / name / "label_map.json").write_text("{}")
    (root / name / f"{name}.jsonl").write_text("{}\n")  # the whole, on no side
    return root / name


def meld(root, **sides):
    """side -> (speaker, words)."""
    root.mkdir(exist_ok=True)
    for side, said in sides.items():
        rows = [f'{i},"{text}",{who},joy,0,{i}' for i, (who, text) in enumerate(said, 1)]
        (root / f"{side}_sent_emo.csv").write_text(
            "\n".join(["Sr No.,Utterance,Speaker,Emotion,Dialogue_ID,Utterance_ID", *rows]) + "\n"
        )
    return root


def told(place):
    return [(f.level, f.where.removeprefix(str(place)).strip(", "), f.problem) for f in folds.overlap(place)]


def test_emobox_folders_need_no_copy_of_the_clips(tmp_path):
    shared = emobox(
        tmp_path, "cremad", {(1, "train"): ["1001_IEO_ANG_HI", "1002_IEO_SAD_LO"], (1, "test"): ["1001_TIE_NEU_XX"]}
    )
    ((level, where, problem),) = told(shared)
    assert (level, where) == ("error", "fold 1, test")
    assert problem.startswith("1 of 1 persons are in training too, with 100.0 %")
    apart = {(k, s): [f"03-01-0{k}-01-02-01-{n:02d}" for n in of] for k in (1, 2) for s, of in
             (("train", (1, 2, 3)), ("test", (4,)))}  # fmt: skip
    assert [f[0] for f in told(emobox(tmp_path, "ravdess", apart))] == ["info"]


def test_melds_tables_are_read_by_speaker(tmp_path, capsys):
    place = meld(
        tmp_path / "MELD", train=[("Joey", "well, hi"), ("Ross", "no")], dev=[("Carol", "oh")],
        test=[("joey ", "he said, 1994"), ("Ross", "yes"), ("Guest", "so")],
    )  # fmt: skip
    ((level, where, problem),) = told(place)
    assert (level, where) == ("error", "test")
    assert problem.startswith("2 of 3 persons are in training too, with 66.7 %")
    assert cli.main(["data", "check", str(place)]) == 1
    assert "2 of 3 persons" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda root: meld(root / "x", train=[("Joey", "hi")]), "holds one side of a division"),
        (lambda root: emobox(root, "iemocap", {(1, "train"): ["Ses01_a"], (1, "test"): ["Ses02_a"]}), "does not say whose"),
        (lambda root: emobox(root, "y", {(1, "train"): []}).parent / "nowhere", "no such file"),
        (lambda root: root, "holds no csv or jsonl named after its side"),
    ],
)  # fmt: skip
def test_what_is_no_division_is_refused_by_name(tmp_path, make, says):
    with pytest.raises(MienError, match=says):
        told(make(tmp_path))


@pytest.mark.parametrize("text", ["{", "[]", "3", '{"emo": "x"}', '{"wav": 3}'])
def test_a_broken_line_is_named(tmp_path, text):
    place = emobox(tmp_path, "cremad", {(1, "train"): ["1001_IEO_ANG_HI"], (1, "test"): ["1002_IEO_ANG_HI"]})
    (place / "fold_1" / "cremad_test_fold_1.jsonl").write_text(f"{text}\n")
    with pytest.raises(MienError, match="cremad_test_fold_1.jsonl, line 1"):
        told(place)
