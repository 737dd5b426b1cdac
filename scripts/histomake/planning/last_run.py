"""The last complete run: which slides are unchanged since, and what a run leaves for the next."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from histomake.audit.code import LIBRARY, SCRIPTS, code_digest, rules_digest
from histomake.audit.fingerprints import Fingerprints
from histomake.base.file_cache import stamps
from histomake.base.files import sha256_file
from histomake.cohort.leakage import FITTED, Assignment
from histomake.model.reuse import DESCRIPTION, WEIGHTS
from histomake.planning.plan import Plan
from histomake.planning.transfer_plan import TransferPlan
from histomake.planning.unchanged import LeftOut, PlannedFiles, digest, left_out, remember, unchanged_slides


class LastRun:
    """Comparison of a plan with the last complete run.

    Everything that outputs depend on is digested when the object is made, and not when the run ends: a slide or a file
    of code that changes in between is not what the outputs were made from. Models are, which the run itself may make.

    Args:
        plan: of this run.
        fingerprints: of slides and annotations.
        tissue_model: files of the model that finds tissue, if there is one.
        root: folder of the workflow, with the Snakefile and the folders rules and envs.
        deployment: how the software of jobs is provided, by Snakemake's names. Jobs run again when it changes.
    """

    def __init__(
        self,
        plan: Plan,
        fingerprints: Fingerprints,
        *,
        tissue_model: Sequence[str],
        root: Path,
        deployment: Sequence[str] = (),
    ) -> None:
        self._plan, self._models = plan, model_files(plan, tissue_model)
        self._made_of = slide_digests(plan, fingerprints)
        self._workflow = [workflow_digest(plan, root), plan.config.containers.dump(), list(deployment)]

    def unchanged(self) -> frozenset[str]:
        """Ids of the slides that need not be planned.

        There are none if a slide that a model is trained on has changed, because the model is then trained again and
        predicts all slides again. Slides of one bag are planned together, because each is predicted from all of them.
        """
        memory = self._plan.layout.last_run
        found = unchanged_slides(memory, shared=self._shared(), made_of=self._made_of)
        together = slides_of_one_bag(self._plan)
        found = frozenset(slide for slide in found if found.issuperset(together.get(slide, ())))
        return found if {slide for _, _, slide, _ in fitted_roles(self._plan)} <= found else frozenset()

    def left_out(self) -> LeftOut:
        """What a plan of the other slides leaves out."""
        return left_out(self._plan.layout.last_run, self.unchanged())

    def remember(self, planned: PlannedFiles, without: Collection[str]) -> None:
        """Store the state after a complete run: the files of what was planned, and which slides were left out."""
        memory = self._plan.layout.last_run
        remember(memory, shared=self._shared(), made_of=self._made_of, planned=planned, left_out=without)

    def _shared(self) -> str:
        """Digest of what the outputs of all slides depend on, with the models as they are now."""
        return digest([self._workflow, list(zip(self._models, stamps(self._models), strict=True))])


def model_files(plan: Plan, tissue_model: Sequence[str]) -> list[str]:
    """All files of models, and all that models are made from besides slides and their tables."""
    found, layout = set(map(Path, tissue_model)), plan.layout
    for group in plan.config.encoder_groups:
        found |= {*plan.encoder_files(group), *(path for s in plan.slides for path in plan.imported_files(group, s))}
    for name in plan.config.tasks:
        if start := plan.starting_weights(name):
            found.add(start)
        for fold in plan.folds(name):
            found |= {layout.training_cohort(name, fold), layout.history(name, fold)}
            folders = (layout.model(name, fold), plan.model_in_use(name, fold))
            found |= {folder / file for folder in folders for file in (WEIGHTS, DESCRIPTION)}
    for name, cascade in plan.config.radhical.items():
        files = layout.cascade(name)
        found |= {
            place(level + 1) for level in range(len(cascade.scales)) for place in (files.weights, files.description)
        }
        found.add(files.thresholds)
    for name, stages in plan.config.cascades.items():
        found |= {layout.patch_cascade(name).thresholds(fold) for fold in plan.folds(stages.stages[0])}
    for name in plan.config.stain_transfers:
        found |= {layout.transfer(name).weights, layout.transfer(name).description}
    return sorted(map(str, found))


def fitted_roles(plan: Plan) -> list[tuple[str, int, str, str]]:
    """(name, fold, slide, role) of every slide that a model is trained, or thresholds are searched on.

    The name is that of a task, of a nucleus cascade or of a stain transfer. Stages of a cascade count even if their
    models are copied from elsewhere, because thresholds are searched on their validation slides.
    """
    stages = {task for cascade in plan.config.cascades.values() for task in cascade.stages}
    roles = {name: plan.roles[name] for name in {*plan.trained, *stages}} | _cascade_roles(plan)
    fitted = [(n, a.fold, a.slide_id, a.role) for n, found in roles.items() for a in found if a.role in FITTED]
    transfers = TransferPlan(plan)
    learned = [(f"transfer:{n}", 0, s, "train") for n in transfers.transfers for s in transfers.slides(n, "train")]
    return sorted(fitted + learned)


def slides_of_one_bag(plan: Plan) -> dict[str, list[str]]:
    """All slides of its patient, by slide; none if no task predicts the slides of a patient together."""
    if not any(task.level == "patient" for task in plan.config.tasks.values()):
        return {}
    patients = defaultdict(list)
    for slide in plan.slides.values():
        patients[slide.patient_id].append(slide.slide_id)
    return {slide: slides for slides in patients.values() for slide in slides}


def _cascade_roles(plan: Plan) -> dict[str, Sequence[Assignment]]:
    """Assignments of each nucleus cascade, by a name that no task has."""
    return {f"radhical:{name}": found for name, found in plan.cascade_roles.items()}


def workflow_digest(plan: Plan, root: Path) -> str:
    """Digest of what the outputs of all slides depend on besides models: settings, code, training slides."""
    rules = [root / "Snakefile", *sorted(root.glob("rules/*.smk"))]
    code = [*sorted(SCRIPTS.glob("*.py")), *sorted(LIBRARY.glob("planning/*.py"))]
    content: list[Any] = [plan.config.dump(), fitted_roles(plan)]
    content += [list(map(code_digest, code)), list(map(rules_digest, rules))]
    return digest([*content, list(map(sha256_file, sorted(root.glob("envs/*"))))])


def slide_digests(plan: Plan, fingerprints: Fingerprints) -> dict[str, str]:
    """Digest of what the outputs of each slide depend on in addition, by id.

    These are its row, its bytes, its roles, its side in each stain transfer, and the slides in one bag with it.
    """
    roles = defaultdict(list)
    for name, assignments in {**plan.roles, **_cascade_roles(plan)}.items():
        for a in assignments:
            roles[a.slide_id].append([name, a.fold, a.role])
    for name, members in TransferPlan(plan).members.items():
        for member in members:
            roles[member.slide_id].append([f"transfer:{name}", member.side, member.role])
    together, found = slides_of_one_bag(plan), {}
    for slide in plan.slides.values():
        files = [
            fingerprints.of(path) if path else None for path in (slide.path, slide.annotation, *slide.readers.values())
        ]
        found[slide.slide_id] = digest([vars(slide), *files, roles[slide.slide_id], together.get(slide.slide_id)])
    return found
