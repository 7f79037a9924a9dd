"""What reports call findings: CheXpert's 14, CT-RATE's 18, and those of brain scans, in the words of reports.

Names and synonyms follow the label lists of Irvin et al., "CheXpert", AAAI 2019 (14 observations) and Hamamci et al.,
"CT-RATE", 2024 (arXiv 2403.17834; 18 abnormalities); phrases are ours. Lesions, masses and nodules of the lung are one
finding, since the two lists name the same things differently.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

NO_FINDING = "no finding"
"""A text that says that nothing is wrong; no finding by itself."""

_LUNG = r"(?:lungs?|pulmonary|parenchymal|airspace|air[- ]space|alveolar)"

PHRASES: Mapping[str, tuple[str, ...]] = {
    NO_FINDING: (
        r"no (?:acute |active |significant |new )*(?:cardio ?-?pulmonary |pulmonary |intracranial |intrathoracic |"
        r"thoracic |chest |brain |radiographic |cardiac or pulmonary )*"
        r"(?:process|abnormalit(?:y|ies)|disease|findings?|patholog(?:y|ies))",
        r"(?:normal|unremarkable) (?:frontal |portable |pa |ap |chest |brain |head |cranial |thoracic )*"
        r"(?:radiographs?|x-?rays?|films?|ct|mri|scan|study|examination|exam)\b",
        r"(?:chest |brain )?(?:radiograph|x-?ray|film|study|examination|scan|ct|mri) (?:is|are|appears?) "
        r"(?:normal|unremarkable)",
    ),
    "pericardial effusion": (r"pericardial (?:effusions?|fluid)",),
    "pleural effusion": (
        r"pleural (?:effusions?|fluid)",
        r"(?:hydro|haemo|hemo)thora(?:x|ces)",
        r"(?:hydropneumothora(?:x|ces))",
        r"(?<!joint )(?<!subdural )effusions?",
    ),
    "pneumothorax": (r"(?:tension )?pneumothora(?:x|ces)",),
    "pleural other": (
        r"pleural (?:based )?(?:thickenings?|scarring|plaques?|calcifications?)",
        r"fibrothorax",
    ),
    "cardiomegaly": (r"cardiomegaly", r"cardiac enlargement", r"enlargement of the (?:heart|cardiac silhouette)"),
    "enlarged cardiomediastinum": (
        r"(?:mediastinal|cardiomediastinal) (?:widening|enlargement)",
        r"widening of the mediastinum",
        r"(?:enlarged|widened) cardio-?mediastinum",
    ),
    "interlobular septal thickening": (
        r"(?:inter-?lobular )?septal (?:thickenings?|lines)",
        r"thickening of (?:the )?interlobular sept(?:a|um)",
        r"kerley(?:'s)? b lines?",
    ),
    "peribronchial thickening": (
        r"(?:peri-?bronchial|bronchial(?: wall)?|airway wall) (?:thickenings?|cuffing)",
        r"thickening of (?:the )?bronchial walls?",
    ),
    "bronchiectasis": (r"(?:traction )?bronchiectas[ie]s", r"bronchiectatic changes?"),
    "mosaic attenuation pattern": (r"mosaic (?:attenuation|perfusion|pattern)(?: patterns?)?", r"air trapping"),
    "emphysema": (
        r"(?:centrilobular |paraseptal |panlobular |bullous )?(?<!subcutaneous )emphysema(?:tous)?(?: changes?)?",
    ),
    "pulmonary fibrotic sequela": (
        r"(?:pulmonary )?fibrotic (?:sequelae?|changes?|bands?|densit(?:y|ies)|lines?)",
        r"(?:pulmonary|interstitial) fibrosis",
        r"(?:fibro-?)?(?:atelectatic|parenchymal) (?:sequelae?|bands?|scarring)",
        r"sequelae? (?:changes?|fibrosis)",
    ),
    "atelectasis": (r"atelectas[ie]s", r"atelectatic (?:changes?|areas?)", r"(?:lobar |lung )collapse"),
    "pneumonia": (
        r"(?:broncho)?pneumonias?",
        r"(?:pulmonary |lung )?infectious (?:process|infiltrates?)",
        r"(?:lung|pulmonary) infection",
    ),
    "edema": (
        r"(?:pulmonary|interstitial|alveolar)(?: interstitial| alveolar)? o?edema",
        r"(?:pulmonary )?(?:vascular|venous) congestion",
        r"(?<!soft tissue )(?<!cerebral )(?<!subcutaneous )(?<!brain )(?<!wall )o?edema",
    ),
    "consolidation": (r"consolidations?", r"consolidative (?:changes?|opacit(?:y|ies)|process)"),
    "lung nodule": (
        rf"{_LUNG} (?:nodules?|mass(?:es)?|lesions?|tumou?rs?|metastas[ie]s)",
        r"(?:micro)?(?<!thyroid )(?<!adrenal )(?<!lymph )nodules?",
        r"nodular (?:lesions?|opacit(?:y|ies)|densit(?:y|ies))",
        r"(?:cavitary|spiculated|subpleural) (?:mass(?:es)?|lesions?)",
        r"(?<!mediastinal )(?<!breast )(?<!liver )(?<!renal )mass(?:es)?\b(?! effect)",
    ),
    "lung opacity": (
        rf"(?:ground[- ]glass(?: appearing)?|{_LUNG}|hazy|patchy|focal|reticular|interstitial|basilar)? ?"
        r"(?:opacit(?:y|ies)|opacifications?|infiltrates?|infiltrations?)",
        r"ground[- ]glass(?: densit(?:y|ies)| areas?| attenuation)?",
        rf"{_LUNG} (?:densit(?:y|ies)|shadows?)",
    ),
    "fracture": (r"(?:rib |vertebral |compression |clavicular |sternal )*fractures?",),
    "coronary artery wall calcification": (
        r"coronary (?:arter(?:y|ies|ial) )?(?:wall )?(?:calcifications?|calcific (?:plaques?|atheroma\w*)|"
        r"atheroma\w*)",
        r"calcifications? (?:of|in|along) (?:the )?(?:walls? of the )?coronary arter(?:y|ies)",
        r"calcified (?:plaques? (?:of|in) the )?coronary arter(?:y|ies)",
    ),
    "arterial wall calcification": (
        r"(?:arterial|arteries|aortic(?: arch)?|aorta|vascular|atherosclerotic)(?: wall)? "
        r"(?:calcifications?|calcific plaques?|plaques?)",
        r"calcifi(?:c|ed) (?:atheroma\w*|atherosclerotic)(?: plaques?| changes?)?",
        r"calcifications? (?:of|in|along) (?:the )?(?:walls? of the )?(?:thoracic )?(?:aorta|aortic arch|arteries)",
        r"atherosclerosis",
    ),
    "hiatal hernia": (r"hiat(?:al|us) hernias?",),
    "lymphadenopathy": (
        r"(?:lymph)?adenopath(?:y|ies)",
        r"(?:pathologically )?enlarged (?:\w+ )?lymph nodes?",
        r"lymph nodes? (?:in|of|with|at) pathological (?:size|dimension)s?",
    ),
    "support devices": (
        r"support (?:devices?|apparatus)",
        r"medical (?:material|devices?)",
        r"lines? and tubes?",
        r"(?:endotracheal|tracheostomy|nasogastric|enteric|feeding|chest|pleural|et|ng) tubes?",
        r"(?:swan-ganz |central venous |picc |pleural |pigtail )(?:catheters?|lines?)",
        r"(?:central venous )?catheters?",
        r"(?:central|picc|jugular|subclavian) lines?",
        r"pacemakers?(?: leads?)?|sternotomy wires?|port-a-cath|(?:icd|defibrillator)\b|stents?\b",
    ),
    "hippocampal atrophy": (
        r"hippocamp(?:al|us|i) (?:volume loss|atrophy|shrinkage)",
        r"(?:medial |mesial )?temporal(?: lobe)? (?:volume loss|atrophy)",
        r"(?:atrophy|volume loss|shrinkage) of (?:the |both )?(?:left |right |bilateral )?(?:hippocamp(?:us|i)|"
        r"(?:medial|mesial) temporal lobes?)",
        r"(?:reduced|decreased|low) hippocampal volumes?",
    ),
    "enlarged ventricles": (
        r"ventriculomegaly",
        r"ventricular (?:enlargement|dilat(?:at)?ion|prominence)",
        r"hydrocephalus",
        r"(?:enlargement|dilat(?:at)?ion|widening) of (?:the )?(?:left |right |lateral |third |cerebral |both )*"
        r"ventricles?",
    ),
    "white matter lesions": (
        r"white[- ]matter (?:hyperintensit(?:y|ies)|lesions?|changes?|disease|hypodensit(?:y|ies)|"
        r"signal abnormalit(?:y|ies)|signal changes?|foci)",
        r"leu[ck]oaraiosis",
        r"(?:small[- ]vessel|microangiopathic|microvascular)(?: ischa?emic)? (?:disease|changes?)",
        r"hyperintensit(?:y|ies) (?:in|of) (?:the )?(?:periventricular |deep |subcortical )*white[- ]matter",
    ),
    "brain atrophy": (
        r"(?:brain|cerebral|cortical|global|generali[sz]ed|diffuse|parenchymal|frontal|parietal|occipital)"
        r"(?: lobe)?(?: cerebral| brain| cortical)* (?:volume loss|atrophy)",
        r"(?:atrophy|volume loss) of the (?:brain|cortex|cerebrum)",
        r"atrophy",
    ),
}
"""Finding -> expressions that name it; the first that fits at a place counts, so the special ones stand first."""


@dataclass(frozen=True)
class State:
    """An organ that is said to be normal or not: ``heart`` with ``enlarged``, ``lungs`` with ``clear``.

    Attributes:
        finding: What the abnormal state is called.
        organ: Expression for the organ.
        normal: Expression for its normal state.
        abnormal: Expression for the state that is the finding.
    """

    finding: str
    organ: str
    normal: str
    abnormal: str


_NORMAL = (
    r"normal(?: in (?:size|caliber|contour|appearance))?|unremarkable|within normal limits|not remarkable|"
    r"age[- ]appropriate|preserved|intact"
)
_WIDE = r"enlarged|dilated|prominent|widened|wide|expanded|increased(?: in size)?|large|big"

STATES: tuple[State, ...] = (
    State(
        "cardiomegaly",
        r"(?:heart(?: (?:size|contours?))?|cardiac (?:silhouette|size|shadow)|size of the heart)"
        r"(?! failure| border| rate)",
        rf"{_NORMAL}|not enlarged",
        _WIDE,
    ),
    State(
        "enlarged cardiomediastinum",
        r"(?:cardio-?mediastinal|mediastinal|cardiac and mediastinal) (?:contours?|silhouettes?|borders?|structures?)|"
        r"(?:cardio-?)?mediastin(?:um|al and hilar contours)",
        _NORMAL,
        _WIDE,
    ),
    State("lung opacity", r"lungs|lung fields|lung parenchyma|both lungs", r"clear|well[- ]aerated", r"opacified"),
    State("pleural effusion", r"(?:costo-?phrenic|cp) (?:angles?|sulc(?:us|i))", r"sharp|clear|free", r"blunted"),
    State("pleural effusion", r"pleural spaces?", r"clear|normal|unremarkable", r"filled"),
    State(
        "enlarged ventricles",
        r"(?:lateral |third |cerebral )*ventric(?:les?|ular (?:system|size|volumes?))",
        _NORMAL,
        _WIDE,
    ),
    State(
        "hippocampal atrophy",
        r"hippocamp(?:us|i|al (?:volumes?|size|formations?))",
        _NORMAL,
        r"atrophic|atrophied|shrunken|small(?:er)?|(?:reduced|decreased)(?: in (?:size|volume))?|low",
    ),
    State(
        "white matter lesions",
        r"white[- ]matter",
        _NORMAL,
        r"hyperintense|hypodense|abnormal",
    ),
    State(
        "brain atrophy",
        r"(?:brain|cortical|gr[ae]y[- ]matter|cerebral|whole[- ]brain) (?:volumes?|parenchyma|thickness)|cortex|brain|"
        r"sulci",
        _NORMAL,
        r"atrophic|atrophied|reduced|decreased|thinned|shrunken|widened|prominent|low",
    ),
)


@dataclass(frozen=True)
class Mention:
    """A finding named in a sentence.

    Attributes:
        finding: Its name.
        start: Where it begins in the sentence.
        end: Where it ends.
        key: Denials in front of it stand before this place: its start, or that of the adjective of an organ's state.
        normal: The words themselves say that it is not there, as in "the heart size is normal".
    """

    finding: str
    start: int
    end: int
    key: int
    normal: bool = False


@functools.cache
def _phrases() -> tuple[re.Pattern[str], tuple[str, ...]]:
    names = tuple(PHRASES)
    parts = [f"(?P<f{i}>{'|'.join(PHRASES[name])})" for i, name in enumerate(names)]
    return re.compile(rf"(?<![\w-])(?:{'|'.join(parts)})(?!\w)"), names


@functools.cache
def _states() -> tuple[tuple[State, re.Pattern[str]], ...]:
    # Over "and" only where both organs share a verb: "heart and mediastinum are normal".
    between = (
        r"(?:\b and (?:the )?\w+(?: \w+)?(?= (?:is|are|was|were|appears?|remains?)\b))?"
        r"(?:(?!\b(?:and|but|with|or|without)\b)[^,;:]){0,45}?"
    )
    found: list[tuple[State, re.Pattern[str]]] = []
    for state in STATES:
        word = rf"(?:(?P<{{0}}>{state.normal})|(?P<{{1}}>{state.abnormal}))"
        behind = rf"(?P<organ>{state.organ})\b{between}\b{word.format('normal', 'abnormal')}"
        before = rf"{word.format('normal_before', 'abnormal_before')} (?:\w+ ){{0,1}}(?:{state.organ})"
        found.append((state, re.compile(rf"(?<![\w-])(?:{behind}|{before})(?!\w)")))
    return tuple(found)


def mentions(sentence: str) -> list[Mention]:
    """Findings named in a sentence of small letters, by their places; none overlaps another.

    Example:
        >>> [(each.finding, each.normal) for each in mentions("heart size is normal, small effusion")]
        [('cardiomegaly', True), ('pleural effusion', False)]
    """
    found = [*_named(sentence), *_of_states(sentence), *_of_coronary_arteries(sentence)]
    kept: list[Mention] = []
    for each in sorted(found, key=lambda m: (m.start, -m.end)):
        if not kept or each.start >= kept[-1].end:
            kept.append(each)
    return kept


def _named(sentence: str) -> Iterator[Mention]:
    expression, names = _phrases()
    for match in expression.finditer(sentence):
        assert match.lastgroup is not None
        start = match.start() + (len(match[0]) - len(match[0].lstrip()))
        yield Mention(names[int(match.lastgroup[1:])], start, match.end(), start)


def _of_states(sentence: str) -> Iterator[Mention]:
    for state, expression in _states():
        place = 0
        while match := expression.search(sentence, place):
            group = next(name for name in ("normal", "abnormal", "normal_before", "abnormal_before") if match[name])
            end = match.end("organ") if match["organ"] else match.end()
            yield Mention(state.finding, match.start(), end, match.start(group), group.startswith("normal"))
            place = match.end()


_CALCIFIED = re.compile(
    r"\b(?:calcif\w+|athero\w+)\b[^;:]{0,80}?(?:,|\band) (?:the )?(?P<organ>coronary arter(?:y|ies))\b"
)


def _of_coronary_arteries(sentence: str) -> Iterator[Mention]:
    """Those named second: "calcified plaques in the aorta and coronary arteries"."""
    for match in _CALCIFIED.finditer(sentence):
        yield Mention("coronary artery wall calcification", match.start("organ"), match.end("organ"), match.start())


def finding_named(name: str, place: str = "") -> str:
    """The labeller's name of a finding, whatever a list of labels calls it; the small letters of others.

    Args:
        name: A name, such as a column of a table of labels.
        place: Region that belongs to the name, as in atrophy of the hippocampus.

    Example:
        >>> finding_named("Lung Lesion"), finding_named("Medical material"), finding_named("atrophy", "hippocampus")
        ('lung nodule', 'support devices', 'hippocampal atrophy')
    """
    plain = " ".join(name.lower().split())
    if plain in PHRASES:
        return plain if plain != "brain atrophy" or "hippocamp" not in place else "hippocampal atrophy"
    for text in (f"{place.lower()} {plain}" if "hippocamp" in place.lower() else plain, plain):
        whole = [each for each in _named(text) if each.finding != NO_FINDING]
        if whole:
            return whole[0].finding
    return plain
