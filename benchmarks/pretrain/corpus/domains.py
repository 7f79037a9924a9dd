"""Chest films, chest CT and brain MRI: what they may show, with prevalences near those of public data."""

from __future__ import annotations

from medgraft.benchmarks.pretrain.corpus.facts import LOBES, Domain, Kind

_ZONES = ("upper lung zone", "mid lung zone", "lower lung zone", "lung base")
_REGIONS = ("frontal lobe", "temporal lobe", "parietal lobe", "occipital lobe", "cerebellum", "basal ganglia")

FILM = Domain(
    "chest films",
    ("chest radiograph", "chest x-ray", "radiograph", "film", "frontal chest film"),
    ("chest", "lung"),
    ("frontal", "lateral"),
    (
        Kind("pleural effusion", 0.35, "size", True),
        Kind("pneumothorax", 0.10, "size", True),
        Kind("cardiomegaly", 0.20, "grade"),
        Kind("pulmonary edema", 0.22, "grade"),
        Kind("consolidation", 0.14, "", True, _ZONES),
        Kind("atelectasis", 0.25, "grade", True, ("lung base", "lower lung zone")),
        Kind("lung nodule", 0.07, "", True, _ZONES, (4, 30)),
        Kind("lung opacity", 0.30, "", True, _ZONES),
        Kind("enlarged mediastinum", 0.08, "grade"),
        Kind("pneumonia", 0.08, "", True),
        Kind("rib fracture", 0.05, "", True),
        Kind("pleural thickening", 0.04, "grade", True),
        Kind("hiatal hernia", 0.03, "size"),
        Kind("support devices", 0.35),
    ),
    (
        *("No acute cardiopulmonary process.", "No acute cardiopulmonary abnormality.", "Normal chest radiograph."),
        *("The lungs are clear.", "Lungs are clear. The heart size is normal."),
    ),
    ("Frontal view of the chest.", "PA view.", "AP view, portable.", "Single view of the chest."),
)

CT = Domain(
    "chest CT",
    ("chest CT", "CT of the chest", "thoracic CT", "CT volume", "CT scan"),
    ("chest", "lung", "thorax"),
    ("axial", "coronal", "sagittal"),
    (
        Kind("medical material", 0.12),
        Kind("arterial wall calcification", 0.28, "grade"),
        Kind("cardiomegaly", 0.11, "grade"),
        Kind("pericardial effusion", 0.07, "size"),
        Kind("coronary artery wall calcification", 0.25, "grade"),
        Kind("hiatal hernia", 0.14, "size"),
        Kind("lymphadenopathy", 0.25, "", False, ("mediastinum", "axilla", "hilum"), (8, 30)),
        Kind("emphysema", 0.19, "grade", False, LOBES),
        Kind("atelectasis", 0.25, "grade", False, LOBES),
        Kind("lung nodule", 0.44, "size", False, LOBES, (3, 28)),
        Kind("lung opacity", 0.36, "", False, LOBES),
        Kind("pulmonary fibrotic sequela", 0.26, "", False, LOBES),
        Kind("pleural effusion", 0.12, "size", True),
        Kind("mosaic attenuation pattern", 0.07),
        Kind("peribronchial thickening", 0.10, "grade", True),
        Kind("consolidation", 0.17, "size", False, LOBES),
        Kind("bronchiectasis", 0.10, "grade", False, LOBES),
        Kind("interlobular septal thickening", 0.08, "grade", True),
        Kind("lung mass", 0.04, "size", False, LOBES, (30, 80)),
        Kind("pneumothorax", 0.04, "size", True),
    ),
    (
        *("No abnormality is seen in the chest.", "Normal chest CT.", "Both lungs are clear."),
        *("Trachea and main bronchi are open. No mass or infiltrate in both lungs.",),
    ),
    ("Non-contrast CT of the chest.", "CT with contrast.", "Axial slices of 1.5 mm.", "Thin-section CT, 3 mm slices."),
)

BRAIN = Domain(
    "brain MRI",
    ("brain MRI", "T1 image of the brain", "MRI of the head", "brain scan", "T1-weighted volume"),
    ("brain", "head"),
    ("axial", "coronal", "sagittal"),
    (
        Kind("hippocampal atrophy", 0.35, "grade", True),
        Kind("ventricular enlargement", 0.35, "grade", True),
        Kind("cortical atrophy", 0.30, "grade", True, _REGIONS[:4]),
        Kind("temporal lobe atrophy", 0.20, "grade", True),
        Kind("white matter lesions", 0.25, "grade", False, _REGIONS),
        Kind("lacunar infarct", 0.08, "size", True, _REGIONS[-2:], (3, 15)),
        Kind("enlarged sulci", 0.20, "grade"),
        Kind("meningioma", 0.03, "size", True, _REGIONS[:4], (8, 50)),
        Kind("microbleeds", 0.06, "", False, _REGIONS),
        Kind("cerebellar atrophy", 0.08, "grade"),
        Kind("subdural hematoma", 0.03, "size", True, (), (3, 20)),
    ),
    (
        *("Normal brain for age.", "No atrophy and no lesion.", "Ventricles and sulci are of normal width."),
        *("Normal volume of both hippocampi.",),
    ),
    ("T1-weighted MRI.", "3D T1 image of 1 mm.", "MRI of the brain without contrast."),
)

DOMAINS = (FILM, CT, BRAIN)
