"""Rounds of sampling, asking experts and learning from what they prefer; and what is to be said of the adapter afterwards."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field

from ..adapters import budget
from ..backbones.causal_lm import CausalBackbone
from ..core import console
from ..core.config import File, Plugin, Section
from ..core.errors import MienError
from ..core.intervals import Interval, over_persons
from ..core.results import Report, Result
from ..core.runs import Run, find, keyed
from ..core.runs import asked as run_asked
from ..core.verbs import GOES_ON, PLAIN, UNCOVERED
from ..generation.adapted import Adapted, open_base, shows
from ..generation.grammar import ungiven
from ..generation.layout import Layout
from ..generation.vocabulary import EOS, PAD
from ..privacy.plan import PrivacySpec
from . import beside, crossed, decoded, experts, judged, pairs, preferences
from . import dpo as dpo_
from . import ppo as ppo_
from . import reward as reward_
from .judged import Learned, Samples, result

_AGREEMENT = "raters' agreement α"
_NO_WIN_RATE = (
    "bounds.win_rate: persons judged the samples before, and nobody judges the new ones, so that there is no win rate to hold;"
    " leave it out (bounds.win_rate=null), and have the new samples judged with `mien feedback`"
)


class Asked(Section):
    """preferences: JSONL of `mien feedback … export=pairs.jsonl` about the adapter's samples; simulate: without it, what
    simulated experts are asked; method: dpo, reward (a reward model alone) or ppo (one, and the adapter towards it); dpo, reward,
    ppo: settings of each; rounds: of sampling, asking and learning; lora: of the adapter beside; privacy: of raters or recorded
    persons, for dpo; weigh: reliable raters count more, without privacy; minimum_alpha: raters who agree less are not learned
    from; held_out: share of answers kept to judge by; bounds: what must hold afterwards."""

    preferences: File | None = None
    simulate: judged.Simulate = judged.Simulate()
    method: Literal["dpo", "ppo", "reward"] = "dpo"
    dpo: dpo_.Dpo = dpo_.Dpo()
    reward: reward_.Reward = reward_.Reward()
    ppo: ppo_.Ppo = ppo_.Ppo()
    rounds: int = Field(default=1, ge=1)
    lora: beside.Aligned = beside.Aligned()
    privacy: PrivacySpec | None = None
    weigh: bool = False
    minimum_alpha: float = 0.3
    held_out: float = Field(default=0.25, gt=0, lt=1)
    bounds: judged.Bounds = judged.Bounds()

    def inputs(self, recipe: Mapping[str, Any]) -> dict[str, str]:
        """Fingerprints of what is read beside the adapter, whose recipe is given. MienError for what cannot be asked."""
        if shows(dict(recipe)):
            raise MienError(
                "this adapter is conditioned on recordings as soft tokens: what experts would compare is made from real"
                " recordings, and no public prompt makes it. Align an adapter without `condition.soft`"
            )
        if self.privacy is not None and (self.method != "dpo" or self.rounds > 1):
            raise MienError("privacy: is for `method: dpo` in one round; nothing else here is private")
        if self.privacy is not None and self.dpo.fresh:
            raise MienError(
                "dpo.fresh: the linear reward follows from every answer as it is, without noise; under `privacy:` DPO learns from"
                " the answers themselves (dpo.fresh=0)"
            )
        if self.privacy is not None and self.weigh:
            raise MienError("weigh: a weight tells of all raters' answers; under `privacy:` every answer counts 1")
        told = {k for k in self.bounds.model_fields_set if getattr(self.bounds, k) is not None}
        if self.method == "reward" and told:
            raise MienError(
                f"bounds.{min(told)}: a reward model moves no adapter, so there is nothing to hold; leave the bounds out"
            )
        if self.method == "reward" and self.rounds > 1:
            raise MienError(
                "rounds: a reward model moves no adapter, so that a second round would see the same samples"
            )
        if self.method == "dpo" and self.dpo.turns > 1 and not self.dpo.fresh:
            raise MienError(
                "dpo.turns: a turn draws fresh samples, and dpo.fresh is 0: there would be one; say how many (dpo.fresh=300)"
            )
        if self.reward.run is not None:
            self._with_a_reward()
        if self.preferences is None:
            return {}
        if "win_rate" in told:
            raise MienError(_NO_WIN_RATE)
        if self.rounds > 1:
            raise MienError(
                "rounds: answers of persons are about one set of samples. Align, generate from the aligned adapter"
                " (adapter=align-…), have that judged, and align it again"
            )
        try:
            # keyed: this is published, and answers are few enough to be guessed
            return {"preferences": keyed(hashlib.sha256(Path(self.preferences).read_bytes()).hexdigest())}
        except OSError as error:
            raise MienError(
                f"cannot read the preferences {self.preferences}: {error.strerror}; `mien feedback … export=pairs.jsonl` writes them"
            ) from None

    def _with_a_reward(self) -> None:
        """MienError where a reward that is there already cannot be taken."""
        if self.method != "ppo" or self.reward.kind != "neural":
            raise MienError(
                "reward.run: a reward model that is there already is for `method: ppo` and `reward.kind: neural`"
            )
        if self.preferences is not None or self.rounds > 1 or self.weigh:
            raise MienError(
                "reward.run: the reward has learned from its answers, and nobody is asked again: leave `preferences`, `rounds` and `weigh`"
                " out, or leave `reward.run` out"
            )

    def _may_reward(self, found: Path, adapter: str, layout: Layout) -> None:
        """MienError where the reward of this run may not move the adapter of this hash. One of another adapter's samples tells of what
        that one has learned, which no guarantee of this one covers, though both be of the same persons."""
        asked = run_asked(found)
        theirs: dict[str, Any] = asked["config"].get("align", {})
        if theirs.get("method") != "reward":
            raise MienError(
                f"reward.run: {found.name} is no run of `method: reward`: make one of this adapter, and name it"
            )
        if asked["inputs"].get("adapter") != adapter:
            raise MienError(
                f"reward.run: {found.name} was learned from samples of another adapter ({theirs.get('adapter')}), whose guarantee is not"
                " this one's; make one of this adapter with `method: reward`"
            )
        reward_.require(found / "release" / "reward", layout)
        told = {r.metric: r for r in Report.read(found / "release" / "report.json").results}
        if why := preferences.doubt(
            told.get(_AGREEMENT), told.get(f"{_AGREEMENT} of A and B alone"), self.minimum_alpha
        ):
            raise MienError(f"reward.run: {found.name}: {why}")
        if (
            theirs.get("preferences") is not None
            and self.bounds.win_rate is not None
            and "win_rate" in self.bounds.model_fields_set
        ):
            raise MienError(_NO_WIN_RATE)

    def taught_by(self, found: Path | None) -> Self:
        """The same, asked of those who taught the reward of the run: persons, or simulated experts of that kind."""
        if found is None:
            return self
        theirs = run_asked(found)["config"]["align"]
        expert = experts.Config(**theirs["simulate"]["expert"])
        simulate = self.simulate.model_copy(update={"expert": expert})
        return self.model_copy(update={"preferences": theirs["preferences"], "simulate": simulate})

    def fits(self, accelerator: Any) -> None:
        """MienError, before anything is sampled, where TRL's trainers cannot run under the launch file, or a step cannot be dealt to
        its processes."""
        if self.privacy is not None:  # Mien's own loop
            return
        if self.method == "dpo":
            dpo_.dealt(self.dpo, accelerator)
        if self.method == "ppo":
            ppo_.dealt(self.ppo, accelerator)
        if self.method != "dpo" and self.reward.kind == "neural" and self.reward.run is None:
            reward_.dealt(self.reward, accelerator)

    @property
    def stopped(self) -> str:
        """What is to be said where somebody stops this, for nothing but private training keeps its steps."""
        again = "the same command begins again with the first round, for only private training keeps its steps"
        return f"stopped; {again}" if self.privacy is None else GOES_ON

    def heard(self, adapter: str, persons: Collection[str], seed: int, layout: Layout) -> Path | None:
        """MienError for answers that may not be learned from, or not under this `privacy:`: refused here, they cost no sample and
        no likelihood. adapter: whose samples they are to be about; persons: whom it was trained on; layout: of its documents.

        The run of `reward.run`, where one is named."""
        if self.reward.run is not None:
            found = find(self.reward.run, "align", made_from=adapter)
            self._may_reward(found, adapter, layout)
            return found
        rater, person = [f"simulated-{i + 1}" for i in range(self.simulate.raters)], [""] * self.simulate.raters
        if self.preferences is not None:
            said, documents, people, _ = judged.from_file(Path(self.preferences), adapter)
            if self.privacy is None:
                taught = [p for p in judged.shown(said) if preferences.teaches(p)]
                preferences.require_public(taught, f"`method: {self.method}` without a `privacy:` section")
                preferences.gate(said, minimum_alpha=self.minimum_alpha)
            elif self.privacy.unit == "person" and (strangers := {*people.values()} - {*persons}):
                raise MienError(
                    f"{self.preferences}: answers tell of {console.count(len(strangers), 'person')} whom this adapter was not trained on,"
                    " so that privacy.unit: person would charge and protect nobody; correct `person`, or leave these answers out"
                )
            judged.taught(judged.shown(said), documents, layout)
            sides = preferences.split(judged.shown(said), self.held_out, seed, alone=self.privacy is not None)
            taught = [p for p in sides.train if preferences.teaches(p)]
            rater, person = (
                [p.rater for p in taught],
                [people.get((p.rater, preferences.compared(p)), "") for p in taught],
            )
        if self.privacy is not None:
            self.privacy.plan(n=len({*dpo_.whose(self.privacy.unit, rater, person)}), steps=self.dpo.steps)
        return None


_PARTS: dict[experts.Part, tuple[str, str]] = {
    "all": ("", "simulated experts, without their noise; new samples before and after"),
    "held_out": (", held-out terms", "of signs that no metric of the report, and no linear reward, measures"),
    "vital": (", vital signs", "of signs that the report, and a linear reward, measure too"),
}
_ON_ANSWERS = "preference attack AUC"
_OF_A_REWARD = (_AGREEMENT, "reward accuracy")
_RATERS, _ALONE = "For the raters:", "Alignment alone:"  # so the claims of a private alignment begin
EARLIER = "Of an earlier alignment, and of the answers to that one alone (what several spend adds up):"


def of_before(caveat: str) -> str:
    """A caveat of the adapter that was aligned, as it holds now: what was claimed of an alignment is of its own answers alone."""
    mine = caveat.startswith((_RATERS, _ALONE)) or caveat == judged.TAKEN_AS_PUBLIC
    return f"{EARLIER} {caveat}" if mine else caveat


def _mean(values: np.ndarray) -> Interval:
    """Over independent draws."""
    return over_persons(lambda x: float(x.mean()), np.arange(len(values)).astype(str), values, bounds=None)


class Rounds:
    """asked, of the adapter `opened`, in `run`; source: where the ids of the persons it was trained on come from; rewarded: the run of
    `reward.run`."""

    recognised: frozenset[str] = frozenset()  # recordings in which raters recognised somebody
    inherited: tuple[str, ...] = ()  # caveats of the run whose reward was taken

    def __init__(
        self, asked: Asked, opened: Adapted, run: Run, accelerator: Any, seed: int, source: str, rewarded: Path | None = None
    ):  # fmt: skip
        self.asked, self.opened, self.run, self.accelerator, self.seed = asked, opened, run, accelerator, seed
        self.source, self.main, self.rewarded = source, accelerator.is_main_process, rewarded
        self.results: list[Result] = []
        self.saw_real, self.tells, self.plan, self.claim = False, False, None, ""

    def draw(self, per_label: int, seed: int) -> Samples:
        """Samples of the adapter as it is now."""
        o = self.opened
        return judged.draw(o.model, o.layout, o.backbone.own_ids, per_label, self.seed + seed)

    def attach(self) -> None:
        beside.attach(self.opened.model, self.asked.lora, self.seed)

    def take(self, k: int) -> None:
        """Round k: ask, learn, and note what the raters' numbers and the held-out answers say."""
        if self.rewarded is not None:
            self._towards(self.rewarded)
            return
        data = self._heard(k)
        console.say(f"  round {k + 1} of {self.asked.rounds}: {data.quality}")
        self.saw_real |= data.saw_real
        self.tells |= data.tells
        if self.main:
            self.run.private.joinpath(f"raters-{k + 1}.txt").write_text("\n".join(data.quality.rows()) + "\n")
        right, line = self._learn(data, k)
        beside.keep(self.opened.model, self.asked.lora.strength)
        if not self.main:
            return
        of = f" (round {k + 1})" if self.asked.rounds > 1 else ""
        doubt = data.quality.doubt(self.asked.minimum_alpha)
        if self.asked.privacy is not None and doubt:
            console.fail(
                f"{doubt}; under `privacy:` this refuses nothing, for all raters' answers would decide it: do not use this adapter"
            )
        self.results += [
            result(f"{_AGREEMENT}{of}", data.quality.alpha, "pair", str(data.quality)),
            result(f"{_AGREEMENT} of A and B alone{of}", data.quality.decided, "pair", "of the answers that teach"),
        ]
        note = f"{data.shared} recordings stand on both sides" if data.shared else "no recording stands on both sides"
        if right is not None and line is not None:
            metric = f"reward accuracy on held-out answers{of}"
            self.results += [
                result(metric, right, "pair", note, chance=0.5, linear_model=line.value),
                result(f"{metric}: linear model on vital signs", line, "pair", "of the same answers", chance=0.5),
            ]
        if self.asked.method != "reward":
            o, prompt = self.opened, self.opened.layout.prompt_length
            share, kept, answers = None, data.held_out, None

            def further(of: pairs.Pairs) -> np.ndarray:
                moved = dpo_.margins(o.backbone, o.model, of, prompt) - dpo_.reference(o.backbone, o.model, of, prompt)
                return moved @ [1, -1]

            if kept is None:
                note = why = "not measured: no held-out answer prefers one recording to another"
            else:
                moves = further(kept)
                share = reward_.share((moves > 0) + 0.5 * (moves == 0), kept)
                why = "PREMIA: is an answer that taught told from one that was held out?"
                if self.asked.privacy is None:
                    answers = reward_.told_apart(further(data.train), moves, data.train, kept)
                else:
                    why = "not measured: it would tell, without noise, of the answers that `privacy:` protects"
            self.results += [
                result(f"held-out answers ordered right{of}", share, "pair", note, chance=0.5),
                result(f"{_ON_ANSWERS}{of}", answers, "pair", why, higher=False, chance=0.5),
            ]

    def _heard(self, k: int) -> Learned:
        a, o = self.asked, self.opened
        people: judged.People | None = None
        saw_real = False
        if a.preferences is not None:
            said, documents, people, saw_real = judged.from_file(Path(a.preferences), o.fingerprint)
            self.recognised |= {p.recognised for p in said if p.recognised is not None}
        else:
            rated = self.draw(a.simulate.per_label, 1 + 10**4 * k)
            said, documents = judged.asked(rated, a.simulate, self.seed + k), judged.by_id(rated, o.layout)
            if a.rounds > 1:
                found = judged.utilities(rated, experts.Expert.of(a.simulate.expert)).get("all")
                mean = None if found is None else _mean(found)
                self.results.append(result(f"mean utility of what was rated (round {k + 1})", mean))
        return judged.learned(
            said,
            documents,
            o.layout,
            minimum_alpha=a.minimum_alpha,
            held_out=a.held_out,
            seed=self.seed + k,
            people=people,
            weigh=a.weigh,
            saw_real=saw_real,
            private=a.privacy is not None,
        )

    def _learn(self, data: Learned, k: int) -> tuple[Interval | None, Interval | None]:
        """One round of the method; the accuracy on held-out answers of its reward and of the linear one, None without a reward."""
        a, o, train = self.asked, self.opened, data.train
        common = self._common(k)
        right = line = None
        log: list[dict[str, float]] = []
        if a.privacy is not None:
            log = self._private(train, a.privacy, common)
        elif a.method == "dpo" and a.dpo.fresh:
            assert data.held_out is not None
            linear = decoded.Decoded.learn(train, o.layout, a.reward.l2)
            right = line = linear.accuracy(data.held_out)
            if self.main:
                linear.save(self.run.release / "reward")
            log = self._freshly(linear, k, common)
        elif a.method == "dpo":
            log = dpo_.train(o.model, o.backbone, o.layout, train, a.dpo, **common)
        else:
            assert data.held_out is not None  # only private answers may leave it empty
            linear = decoded.Decoded.learn(train, o.layout, a.reward.l2)
            right = line = linear.accuracy(data.held_out)
            module, frozen = linear.module(o.backbone), open_base(Plugin(**o.config["backbone"]), o.layout)
            if a.reward.kind == "neural":
                module, temperature = reward_.train(frozen, frozen.model, o.layout, train, a.reward, **common)
                right = reward_.accuracy(o.backbone, module, data.held_out)
                if self.main:
                    reward_.save(module, self.run.release / "reward", temperature, o.backbone.identity)
            elif self.main:
                linear.save(self.run.release / "reward")
            if a.method == "ppo":
                if a.ppo.fresh and a.reward.kind == "linear":
                    console.say(f"  sampling {a.ppo.fresh} documents of each class for the critic")
                    linear = linear.watching(
                        [*train.chosen, *train.rejected, *self.draw(a.ppo.fresh, 10**4 * k + 3 * 10**6).documents]
                    )
                value = linear.critic(o.backbone) if a.reward.kind == "linear" else self._value(frozen, common["seed"])
                log = ppo_.train(o.model, o.backbone, o.layout, module, value, a.ppo, **common)
        if self.main:
            judged.write_log(common["folder"] / "log.jsonl", log)
        return right, line

    def _towards(self, rewarded: Path) -> None:
        """PPO towards the reward model of another run, which says itself how well it foretells answers: whether an answer that this
        one held out had taught it there is not known here."""
        o, common = self.opened, self._common(0)
        module = reward_.load(rewarded / "release" / "reward", o.layout).to(self.accelerator.device)
        frozen = open_base(Plugin(**o.config["backbone"]), o.layout)
        log = ppo_.train(
            o.model, o.backbone, o.layout, module, self._value(frozen, common["seed"]), self.asked.ppo, **common
        )
        beside.keep(o.model, self.asked.lora.strength)
        before = Report.read(rewarded / "release" / "report.json")
        self.saw_real = judged.SAW_REAL in before.caveats
        self.inherited = before.caveats
        self.results += [r for r in before.results if r.metric.startswith(_OF_A_REWARD)]
        if self.main:
            judged.write_log(common["folder"] / "log.jsonl", log)

    def _common(self, k: int) -> dict[str, Any]:
        """What every trainer of round k is told."""
        folder = self.run.private / f"round-{k + 1}"
        folder.mkdir(exist_ok=True)
        return {"seed": self.seed + k, "folder": folder, "accelerator": self.accelerator}

    def _value(self, frozen: CausalBackbone, seed: int) -> Any:
        """A fresh value model of the base."""
        o = self.opened
        eos, pad = (int(o.backbone.own_ids(np.array(t))) for t in (EOS, PAD))
        return reward_.fresh(frozen.model, o.layout.vocabulary.digest, eos, pad, seed)

    def _freshly(self, reward: decoded.Decoded, k: int, common: dict[str, Any]) -> list[dict[str, float]]:
        """DPO on pairs of fresh samples of the adapter as it is now, in turns; its log."""
        a, o = self.asked.dpo, self.opened
        log: list[dict[str, float]] = []
        for turn in range(a.turns):
            console.say(f"  turn {turn + 1} of {a.turns}: sampling {a.fresh} documents of each class")
            seed = 10**4 * k + 100 * turn + 3 * 10**6
            docs = self.draw(a.fresh, seed).documents
            data = crossed.pairs(reward, docs, a.steps * a.batch, a.tilt, self.seed + seed)
            log += dpo_.train(o.model, o.backbone, o.layout, data, a, **common)
        return log

    def _private(self, train: pairs.Pairs, spec: PrivacySpec, common: dict[str, Any]) -> list[dict[str, float]]:
        a, o = self.asked, self.opened
        plan = self.plan = spec.plan(n=len(dpo_.units(train, spec.unit)), steps=a.dpo.steps)
        raters = plan.unit == "rater"
        who = sorted(set(train.rater if raters else train.person))
        # a pseudonym is one person under whatever name a study goes; two who share one are charged as one, never the reverse
        source = "raters" if raters else self.source
        with budget.Entry(self.run, source, who, plan, spec.cap, self.main) as entry:
            self.accelerator.wait_for_everyone()  # nobody computes a gradient before the ledger has the charge
            log = dpo_.train_private(o.model, o.backbone, o.layout, train, a.dpo, plan, **common)
            if self.main:
                self.claim = entry.close()
        return log

    # --- afterwards -------------------------------------------------------------------------------------------------------
    def compare(self, before: Samples, after: Samples) -> None:
        """What changed in new samples: utility where experts are simulated, validity, KL to the private adapter alone."""
        o, prompt = self.opened, self.opened.layout.prompt_length
        if self.asked.preferences is None:
            gains, wins = judged.gained(before, after, experts.Expert.of(self.asked.simulate.expert))
            for part, (of, note) in _PARTS.items():
                metric, gain = f"expert utility gain{of}", gains.get(part)
                if gain is None:
                    self.results.append(result(metric, None, note="not measured: no sample has any of these signs"))
                else:
                    self.results.append(result(metric, gain.interval, note=note, before=gain.before, after=gain.after))
            self.results.append(result("win rate against before", wins, no_difference=0.5))
        with ungiven(o.model):  # as they were drawn
            now, count = pairs.log_p(o.backbone, o.model, after.documents, prompt)
            with beside.reference(o.model):
                was, _ = pairs.log_p(o.backbone, o.model, after.documents, prompt)
        kl = _mean(now - was)
        self.results += [
            Result(metric="valid sequences", value=after.valid, unit="recording"),
            result(
                "KL to the reference", kl, higher=False,
                note=f"nats a document of {count.mean():.0f} tokens on average; the reference is the private adapter alone",
            ),
        ]  # fmt: skip

    def covered(self, found: tuple[Interval, Interval, Interval | None] | str) -> None:
        """Coverage of the training windows by equally many samples (evaluation/kept.py)."""
        if isinstance(found, str):
            self.results += [result(m, None, "window", f"not measured: {found}") for m in ("coverage", "coverage kept")]
            return
        was, now, kept = found
        self.results.append(
            result("coverage", now, "window", "of training windows, over their persons", before=was.value)
        )
        self.results.append(result("coverage kept", kept, "window", "after over before"))

    def leaked(self, found: tuple[Interval, Interval, Interval], k: int | None = None) -> None:
        """The membership attack before and after (attacks/again.py), or after round k."""
        was, now, rose = found
        of = "" if k is None else f" (round {k + 1})"
        self.results.append(
            result(f"reference attack AUC{of}", now, "person", higher=False, before=was.value, chance=0.5)
        )
        if k is None:
            self.results.append(result("rise of membership AUC", rose, "person", "after less before", higher=False))

    def report(self, adapter: Report, **about: Any) -> Report:
        """What is claimed, for whom, and why. adapter: the report of the adapter it began with."""
        guarantee = adapter.guarantee
        caveats = [*judged.flag(len(self.recognised)), *(of_before(c) for c in adapter.caveats), *self.inherited]
        of_persons = self.plan is not None and self.plan.unit == "person"
        if self.saw_real or (self.tells and not of_persons):
            guarantee = adapter.guarantee if guarantee == PLAIN else f"none any more. {judged.SAW_REAL}"
            caveats.append(judged.SAW_REAL)
        elif not of_persons:
            caveats.append(judged.AFTERWARDS)
        if self.plan is not None and of_persons:
            if guarantee != PLAIN and not self.saw_real:
                guarantee += (
                    f". Alignment used answers that tell of the same persons, in addition: {self.claim}; they add up"
                )
            caveats.append(f"{_ALONE} {self.claim}")
        elif self.plan is not None:
            caveats.append(f"{_RATERS} {self.claim}.")
        if self.plan is not None:
            caveats.append(judged.TAKEN_AS_PUBLIC)
        if (
            guarantee != PLAIN and self.asked.method != "reward"
        ):  # coverage and the attack look at the recordings themselves
            caveats.append(UNCOVERED)
        missing = [
            "Leakage of recordings by any attack but one: run `mien attack` on this run and on the adapter it began with."
        ]
        if not any(r.metric.startswith(_ON_ANSWERS) and r.value is not None for r in self.results):
            missing.append(
                "What this gives away of the answers it was learned from, and of whose they are: no attack looked at it."
            )
        if self.asked.method == "reward":
            missing = missing[1:]
        elif self.asked.preferences is not None:
            missing.insert(
                0,
                "Whether new samples please more: nobody judged them. Sample from this run, and ask with `mien feedback`.",
            )
        return Report(
            verb="align", guarantee=guarantee, caveats=tuple(dict.fromkeys(caveats)), results=tuple(self.results),
            restrictions=adapter.restrictions, not_measured=tuple(missing), **about,
        )  # fmt: skip
