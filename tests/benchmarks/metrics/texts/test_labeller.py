"""Statements read out of reports by rules: what is asserted, denied or doubted, and on which side, how large, where."""

from __future__ import annotations

import time

import pytest

from medgraft.benchmarks.cohorts.chest.chexpert_labels import CHEXPERT_14
from medgraft.benchmarks.metrics.texts.labeller.findings import PHRASES, finding_named
from medgraft.benchmarks.metrics.texts.statements import Statement, from_json, statements_of, to_json
from medgraft.errors import DataError

YES, NO, MAYBE, NOT_MAYBE = "+", "-", "?", "-?"

SENTENCES: dict[str, list[str]] = {
    # plain and in capitals
    "Small left pleural effusion.": ["+ pleural effusion left small"],
    "NO PNEUMOTHORAX.": ["- pneumothorax"],
    "MODERATE RIGHT PLEURAL EFFUSION": ["+ pleural effusion right moderate"],
    "cardiomegaly": ["+ cardiomegaly"],
    # denials before
    "No evidence of pneumothorax.": ["- pneumothorax"],
    "No evidence of pneumothorax, pleural effusion, or focal consolidation.": [
        "- pneumothorax",
        "- pleural effusion",
        "- consolidation",
    ],
    "Cardiomegaly without pulmonary edema or pleural effusion.": [
        "+ cardiomegaly",
        "- edema",
        "- pleural effusion",
    ],
    "Neither pneumothorax nor pleural effusion is seen.": ["- pneumothorax", "- pleural effusion"],
    "The lungs are free of consolidation.": ["- consolidation"],
    "Negative for pneumothorax.": ["- pneumothorax"],
    "No effusion is seen.": ["- pleural effusion"],
    "There is no definite pneumothorax.": ["- pneumothorax"],
    "No new consolidation.": ["- consolidation"],
    "Absence of pleural effusion.": ["- pleural effusion"],
    # denials behind
    "Pneumothorax is not seen.": ["- pneumothorax"],
    "Pleural effusion has resolved.": ["- pleural effusion"],
    "The previously seen left pneumothorax has resolved.": ["- pneumothorax left"],
    "Resolved right lower lobe consolidation.": ["- consolidation right | right lower lobe"],
    "Interval resolution of the right pneumothorax.": ["- pneumothorax right"],
    "Pneumonia was ruled out.": ["- pneumonia"],
    "The pleural effusion is no longer visible.": ["- pleural effusion"],
    "Pleural effusion: none. Pneumothorax: absent.": ["- pleural effusion", "- pneumothorax"],
    "Fractures are not identified.": ["- fracture"],
    # no denials
    "Nearly resolved left pneumothorax.": ["+ pneumothorax left"],
    "No change in the left pleural effusion.": ["+ pleural effusion left"],
    "No significant interval change in small right pneumothorax.": ["+ pneumothorax right small"],
    "Without change in moderate cardiomegaly.": ["+ cardiomegaly moderate"],
    "Unchanged left basilar atelectasis.": ["+ atelectasis left | lower zone"],
    "Stable cardiomegaly, not significantly changed.": ["+ cardiomegaly"],
    "The pneumothorax has not resolved.": ["+ pneumothorax"],
    "Unresolved pneumonia.": ["+ pneumonia"],
    # twice denied
    "Not without pleural effusion.": ["+ pleural effusion"],
    "The lungs are not free of consolidation.": ["+ consolidation"],
    "No absence of edema.": ["+ edema"],
    "There is no doubt of pneumonia.": ["+ pneumonia"],
    # a denial ends
    "No pneumothorax, but a small left effusion is seen.": ["- pneumothorax", "+ pleural effusion left small"],
    "No pneumothorax, small left effusion is unchanged.": ["- pneumothorax", "+ pleural effusion left small"],
    "No effusion and a small right pneumothorax.": ["- pleural effusion", "+ pneumothorax right small"],
    "No consolidation; there is mild edema.": ["- consolidation", "+ edema small"],
    "No acute disease apart from a left rib fracture.": ["+ no finding", "+ fracture left"],
    "Atelectasis rather than pneumonia.": ["+ atelectasis", "- pneumonia"],
    "The effusion is large, however no pneumothorax.": ["+ pleural effusion large", "- pneumothorax"],
    "There is no pleural effusion, and the heart is enlarged.": ["- pleural effusion", "+ cardiomegaly"],
    "No effusion and the heart is not enlarged.": ["- pleural effusion", "- cardiomegaly"],
    "No effusion, edema, and consolidation are seen.": ["- pleural effusion", "- edema", "- consolidation"],
    "No pneumothorax, possible pneumonia.": ["- pneumothorax", "? pneumonia"],
    "Pleural effusion is present on the right, absent on the left.": ["+ pleural effusion right"],
    "The chest tube was removed.": ["- support devices"],
    # doubts
    "Pneumonia cannot be excluded.": ["? pneumonia"],
    "Cannot exclude small right pleural effusion.": ["? pleural effusion right small"],
    "Pneumonia is not excluded.": ["? pneumonia"],
    "Superimposed infection can't be ruled out, possible pneumonia.": ["? pneumonia"],
    "Findings may represent pneumonia.": ["? pneumonia"],
    "Findings are consistent with pneumonia.": ["+ pneumonia"],
    "Possible right mid lung zone consolidation.": ["? consolidation right | mid zone"],
    "Opacity suspicious for pneumonia.": ["+ lung opacity", "? pneumonia"],
    "Atelectasis versus pneumonia.": ["? atelectasis", "? pneumonia"],
    "Left basilar opacity, atelectasis or consolidation.": [
        "+ lung opacity left | lower zone",
        "? atelectasis",
        "? consolidation",
    ],
    "Pneumonia is unlikely.": ["-? pneumonia"],
    "A pneumothorax is questionable.": ["? pneumothorax"],
    "Probable small effusion on the left.": ["? pleural effusion left small"],
    "Opacities in the left lower lobe are concerning for pneumonia.": [
        "+ lung opacity left | left lower lobe",
        "? pneumonia",
    ],
    # sides
    "Bilateral pleural effusions, left greater than right.": ["+ pleural effusion both"],
    "Pleural effusions, left greater than right.": ["+ pleural effusion both"],
    "Bibasilar atelectasis.": ["+ atelectasis both | lower zone"],
    "Right-sided pneumothorax.": ["+ pneumothorax right"],
    "Effusion on the left and pneumothorax on the right.": ["+ pleural effusion left", "+ pneumothorax right"],
    "Left effusion and atelectasis.": ["+ pleural effusion left", "+ atelectasis"],
    "Small left pleural effusion, large right pneumothorax.": [
        "+ pleural effusion left small",
        "+ pneumothorax right large",
    ],
    "The left heart border is obscured by consolidation.": ["+ consolidation"],
    # sizes, places, millimetres
    "8 mm nodule in the right upper lobe and small left effusion.": [
        "+ lung nodule right | right upper lobe 8",
        "+ pleural effusion left small",
    ],
    "Nodules in the right upper lobe and left lower lobe.": [
        "+ lung nodule right | right upper lobe",
        "+ lung nodule left | left lower lobe",
    ],
    "A 1.2 x 0.8 cm mass in the LUL.": ["+ lung nodule left | left upper lobe 12"],
    "Consolidation in the middle lobe.": ["+ consolidation right | right middle lobe"],
    "Small to moderate left effusion.": ["+ pleural effusion left moderate"],
    "Endotracheal tube 3 cm above the carina.": ["+ support devices"],
    "Nodule, previously 6 mm, now 9 mm.": ["+ lung nodule 9"],
    "Moderate cardiomegaly, mild edema.": ["+ cardiomegaly moderate", "+ edema small"],
    "No large pleural effusion.": ["- pleural effusion large"],
    # organs that are normal or not
    "The heart is not enlarged.": ["- cardiomegaly"],
    "Heart size is within normal limits.": ["- cardiomegaly"],
    "The heart is mildly enlarged.": ["+ cardiomegaly small"],
    "Normal heart size.": ["- cardiomegaly"],
    "Lungs are clear.": ["- lung opacity"],
    "Mediastinal contours are unremarkable.": ["- enlarged cardiomediastinum"],
    "The ventricles are enlarged.": ["+ enlarged ventricles"],
    "Ventricles normal in size.": ["- enlarged ventricles"],
    "Severe atrophy of the left hippocampus.": ["+ hippocampal atrophy left large"],
    "Hippocampal volumes are preserved.": ["- hippocampal atrophy"],
    "Mild periventricular white matter hyperintensities.": ["+ white matter lesions small | periventricular"],
    "No cerebral atrophy.": ["- brain atrophy"],
    "The heart and mediastinum are normal.": ["- cardiomegaly", "- enlarged cardiomediastinum"],
    "The left hippocampus is smaller than the right.": ["+ hippocampal atrophy left"],
    # others of CT-RATE
    "Calcified atheroma plaques are observed in the aorta and coronary arteries.": [
        "+ arterial wall calcification",
        "+ coronary artery wall calcification",
    ],
    "Nodules of 4 mm in the right lung upper lobe and 5 mm in the left lung lower lobe were observed.": [
        "+ lung nodule right | right upper lobe 4",
        "+ lung nodule left | left lower lobe 5",
    ],
    "No mass or infiltration was detected in both lungs.": ["- lung nodule", "- lung opacity"],
    "Hiatal hernia is observed.": ["+ hiatal hernia"],
    "Mosaic attenuation pattern in both lungs.": ["+ mosaic attenuation pattern both"],
    "No pericardial effusion or pleural effusion.": ["- pericardial effusion", "- pleural effusion"],
    "Lymph nodes in pathological size were not detected.": ["- lymphadenopathy"],
    # nothing is said of the images
    "INDICATION: Rule out pneumonia.": [],
    "HISTORY: Pneumothorax.\nFINDINGS: Clear lungs.": ["- lung opacity"],
    "Evaluate for pneumothorax.": [],
    "History of pneumonia.": [],
    "": [],
    "Thank you for this referral.": [],
    # other languages
    "Kein Pneumothorax. Kleiner Pleuraerguss links.": [],
    "Pas de pneumothorax ni d'épanchement.": [],
    "Sin neumotórax. Cardiomegalia y atelectasis.": [],
    "Perikardiyal effüzyon izlenmedi, pneumothorax yok.": [],
    "胸腔积液。": [],
}


def shown(each: Statement) -> str:
    sign = (YES if each.certain else MAYBE) if each.present else (NO if each.certain else NOT_MAYBE)
    length = "" if each.millimetres is None else f"{each.millimetres:g}"
    place = f"| {each.place}" if each.place else ""
    return " ".join(part for part in (sign, each.finding, each.side, each.size, place, length) if part)


def test_each_sentence_states_what_a_reader_reads():
    read = {sentence: [shown(each) for each in statements_of(sentence)] for sentence in SENTENCES}
    assert {sentence: found for sentence, found in read.items() if found != SENTENCES[sentence]} == {}


def test_lower_and_upper_case_state_the_same():
    for sentence in SENTENCES:
        assert statements_of(sentence.upper()) == statements_of(sentence.lower()), sentence


def test_sentences_of_a_list_and_over_line_breaks():
    text = "FINDINGS:\n1. Small left\n   pleural effusion\n2. No pneumothorax\n- Mild edema\n\nIMPRESSION: Cardiomegaly"
    assert [shown(each) for each in statements_of(text)] == [
        "+ pleural effusion left small",
        "- pneumothorax",
        "+ edema small",
        "+ cardiomegaly",
    ]


def test_what_is_said_twice_is_one_statement():
    assert len(statements_of("Cardiomegaly. Small effusion. Cardiomegaly.")) == 2


def test_every_name_of_a_finding_is_read_as_itself():
    for name in PHRASES:
        if name not in ("no finding", "pleural other"):
            assert [each.finding for each in statements_of(f"There is {name}.")] == [name]
            assert statements_of(f"There is no {name}.")[0].present is False


def test_labels_of_chexpert_and_ct_rate_have_names_here():
    ct_rate = (
        *("Medical material", "Arterial wall calcification", "Cardiomegaly", "Pericardial effusion", "Hiatal hernia"),
        *("Coronary artery wall calcification", "Lymphadenopathy", "Emphysema", "Atelectasis", "Lung nodule"),
        *("Lung opacity", "Pulmonary fibrotic sequela", "Pleural effusion", "Mosaic attenuation pattern"),
        *("Peribronchial thickening", "Consolidation", "Bronchiectasis", "Interlobular septal thickening"),
    )
    assert {finding_named(label) for label in (*CHEXPERT_14, *ct_rate)} <= set(PHRASES)
    assert len({finding_named(label) for label in ct_rate}) == 18
    assert finding_named("Fibrosis of the moon") == "fibrosis of the moon"


def test_ten_thousand_reports_are_read_in_well_under_a_minute():
    parts = [sentence for sentence in SENTENCES if "\n" not in sentence and "INDICATION" not in sentence]
    reports = [" ".join(parts[(i * k) % len(parts)] for k in range(1, 9)) + f" Nodule of {i} mm." for i in range(1000)]
    started = time.process_time()
    assert all(map(statements_of, reports))
    assert time.process_time() - started < 4  # of a tenth of them, each with a sentence of its own; 0.3 s when alone


@pytest.mark.parametrize(
    "statements",
    [
        [],
        [Statement("pleural effusion", True, side="left", size="small")],
        [Statement("lung nodule", True, False, "right", "", "right upper lobe", 7.5), Statement("edema", False)],
    ],
)
def test_statements_come_back_from_json(statements):
    assert from_json(to_json(statements)) == statements


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no",
        "{}",
        "[1]",
        '[{"finding": "edema"}]',
        '[{"finding": "", "present": true}]',
        '[{"finding": "edema", "present": 1}]',
        '[{"finding": "edema", "present": true, "side": "up"}]',
        '[{"finding": "edema", "present": true, "millimetres": -1}]',
        '[{"finding": "edema", "present": true, "millimetres": true}]',
        '[{"finding": "edema", "present": true, "other": ""}]',
        '[{"finding": "edema", "present": true, "millimetres": NaN}]',
        '[{"finding": "edema", "present": true, "millimetres": Infinity}]',
    ],
)
def test_what_is_no_list_of_statements_is_refused(text):
    with pytest.raises(DataError, match="statement"):
        from_json(text)
