"""Who is in a brain phantom: settings, latents, clinical scores, scanners and the Bayes-optimal score.

A diagnosis reaches the pixels only through three named atrophy latents (hippocampus, ventricles, sulci) and reaches the
clinical scores only through one cognition latent. Both are Gaussian given diagnosis and age, so the posterior, and with
it the best score that any model can reach, is known in closed form: every number can be read against a ceiling.

Every draw comes from ``default_rng([seed, stream, index, ...])``, so any subject can be made alone and in any order.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medgraft.errors import ConfigError, UnknownNameError

Array = NDArray[Any]

DIAGNOSES = ("CN", "MCI", "AD")
LATENTS = ("hippocampus", "ventricles", "sulci")
VISIT_MONTHS = {"bl": 0, "m06": 6, "m12": 12, "m24": 24, "m36": 36, "m48": 48, "m60": 60, "m72": 72}
SCORES = ("MMSE", "ADAS13", "ADAS11", "CDRSB", "FAQ", "RAVLT_immediate", "MOCA")

# Second word of every generator's key: two purposes never share random numbers.
STREAM_SITES, STREAM_SUBJECT, STREAM_ANATOMY, STREAM_VISIT, STREAM_SCORES, STREAM_COHORT, STREAM_AGEING = range(1, 8)
STREAM_RAW, STREAM_LATE = 8, 9

# Age at baseline (mean, SD) and probability of being female, given CN, MCI, AD; about ADNI's.
_AGE_MEAN, _AGE_SD = np.array([74.0, 73.5, 75.0]), np.array([5.8, 7.2, 7.6])
_FEMALE = np.array([0.51, 0.41, 0.45])
_APOE4 = ((0.72, 0.25, 0.03), (0.50, 0.39, 0.11), (0.34, 0.47, 0.19))
_VISIT_COUNTS = ((0.30, 0.25, 0.25, 0.10, 0.10), (0.05, 0.05, 0.15, 0.30, 0.45), (0.30, 0.25, 0.25, 0.10, 0.10))
_LATE_COUNTS = ((0.50, 0.20, 0.20, 0.10), (0.08, 0.07, 0.35, 0.50), (0.50, 0.20, 0.20, 0.10))  # m48, m60, m72
_COGNITION_SHARE = 0.15  # how much of the atrophy residual shows in cognition


@dataclass(frozen=True)
class ScannerRange:
    """Ranges that a scanner's properties are drawn from, uniformly.

    Attributes:
        gamma: Exponent of the intensity curve; above 1 darkens grey matter against white.
        bias: Standard deviation of the log bias field.
        blur: Weight of each neighbour in the 3-tap point spread function, 1 for the voxel itself.
        noise_15t: Rician noise at 1.5 T, in units of the brightest tissue.
        noise_3t: The same at 3 T.
    """

    gamma: tuple[float, float] = (1.25, 1.7)
    bias: tuple[float, float] = (0.04, 0.10)
    blur: tuple[float, float] = (0.05, 0.30)
    noise_15t: tuple[float, float] = (0.04, 0.06)
    noise_3t: tuple[float, float] = (0.025, 0.04)


@dataclass(frozen=True)
class Scanner:
    """One simulated site.

    Attributes:
        code: Site number, 900 or above: no real ADNI site has one.
        field_strength: Tesla, 1.5 or 3.0.
        gm: Shift of grey matter, template units (of 255).
        wm: Shift of white matter, template units.
        gain: Multiplier of the whole image.
        gamma: See :class:`ScannerRange`, as are ``bias``, ``blur`` and ``noise``.
        bias: Standard deviation of the log bias field.
        blur: Neighbour weight of the point spread function.
        noise: Rician noise.
    """

    code: int
    field_strength: float
    gm: float
    wm: float
    gain: float
    gamma: float
    bias: float
    blur: float
    noise: float


@dataclass(frozen=True)
class BrainSetting:
    """A population and its scanners. See :data:`SETTINGS` for the named ones.

    Attributes:
        name: Key in :data:`SETTINGS`.
        mu: Mean of the shared atrophy severity for CN, MCI, AD, in SDs of a healthy 74-year-old.
        loading: How strongly each of ``LATENTS`` follows that severity.
        corr: Correlation of the latents within a class.
        age_slope: Change of each latent per 7 years of age.
        prior: Share of CN, MCI, AD.
        cognition: Mean of the cognition latent (higher is worse) for CN, MCI, AD.
        cognition_sd: Its SD within a class, apart from what it shares with atrophy.
        missing: Probability that one clinical score of one visit is missing.
        n_sites: Number of scanners.
        site_seed: Seed of the scanner table; two settings with one seed and one range share their scanners.
        first_site: Code of the first scanner.
        scanners: Ranges of the scanner table.
        diagnosed: False for a population of healthy ageing, which has no diagnosis at all.
        ageing_range: Ages of that population, years; ages outside are held out from whatever is trained on it.
    """

    name: str
    mu: tuple[float, float, float] = (0.0, 2.1, 4.2)
    loading: tuple[float, float, float] = (1.0, 0.85, 0.95)
    corr: float = 0.35
    age_slope: tuple[float, float, float] = (0.25, 0.45, 0.30)
    prior: tuple[float, float, float] = (0.35, 0.40, 0.25)
    cognition: tuple[float, float, float] = (0.0, 2.5, 5.0)
    cognition_sd: float = 1.0
    missing: float = 0.07
    n_sites: int = 6
    site_seed: int = 101
    first_site: int = 901
    scanners: ScannerRange = ScannerRange()
    diagnosed: bool = True
    ageing_range: tuple[float, float] = (45.0, 80.0)


_OTHER_SCANNERS = ScannerRange(
    gamma=(0.85, 1.20), bias=(0.02, 0.06), blur=(0.0, 0.15), noise_15t=(0.025, 0.04), noise_3t=(0.012, 0.025)
)
_OASIS_SCANNERS = ScannerRange(
    gamma=(1.0, 1.5), bias=(0.03, 0.08), blur=(0.05, 0.20), noise_15t=(0.03, 0.05), noise_3t=(0.02, 0.03)
)
_DEFAULT = BrainSetting("default")

SETTINGS: dict[str, BrainSetting] = {
    setting.name: setting
    for setting in (
        _DEFAULT,
        replace(_DEFAULT, name="adni", mu=(0.0, 0.8, 1.9), cognition=(0.0, 2.2, 4.4)),
        replace(_DEFAULT, name="nogap", n_sites=12, site_seed=777, first_site=951, scanners=_OTHER_SCANNERS),
        replace(
            _DEFAULT,
            name="pretrain",
            n_sites=12,
            site_seed=777,
            first_site=951,
            scanners=_OTHER_SCANNERS,
            diagnosed=False,
        ),
        replace(
            _DEFAULT,
            name="oasis",
            n_sites=4,
            site_seed=303,
            first_site=971,
            scanners=_OASIS_SCANNERS,
            ageing_range=(45.0, 60.0),
        ),
    )
}
"""The named settings; fixed before any adapter was compared and never tuned on an adapter's result.

- ``default``: the benchmark cohort. Its imaging effects are larger than ADNI's (hippocampus/ICV differs between CN and
  AD by a Cohen's d of about 3.5), so that models small enough for a CPU have something to find. Its effect sizes were
  chosen with simple baselines in view: a resemblance to a published ranking of image, text and both is no replication.
- ``adni``: the same with effect sizes as in ADNI (hippocampus d about 1.7): harder, decided mostly by the text.
- ``pretrain``: healthy ageing between 45 and 80 years with no diagnosis, on other scanners (flatter contrast, less
  noise and bias). Encoders learn here; from these scanners and ages to the benchmark's is the gap that adapters close.
- ``nogap``: the benchmark's diagnoses on the very scanners of ``pretrain``: a control, with little gap to close.
- ``oasis``: the benchmark's diagnoses on scanners between the two, and healthy people from 45 to 60 besides: another
  hospital, to judge elsewhere what was trained on ``default``.
"""


@dataclass(frozen=True)
class Subject:
    """One simulated person at baseline.

    Attributes:
        index: Position in the cohort; with the cohort's seed it determines everything below.
        dx: Index into ``DIAGNOSES``.
        age: Years at baseline.
        female: Sex.
        atrophy: The latents of ``LATENTS``, 0 for a healthy 74-year-old, in SDs.
        cognition: The cognition latent.
        site: Index of the scanner.
        education: Years.
        apoe4: Number of APOE e4 alleles.
        conversion_month: Month from which an MCI subject is AD; infinite for everybody else.
        rate: Growth of every latent per year.
        n_visits: Visits to be made, 1..5.
    """

    index: int
    dx: int
    age: float
    female: bool
    atrophy: tuple[float, float, float]
    cognition: float
    site: int
    education: int
    apoe4: int
    conversion_month: float
    rate: float
    n_visits: int

    def dx_at(self, month: float) -> int:
        """Diagnosis (index into ``DIAGNOSES``) at a visit ``month`` months after baseline."""
        return 2 if month >= self.conversion_month else self.dx

    def atrophy_at(self, month: float) -> tuple[float, float, float]:
        """Atrophy latents ``month`` months after baseline."""
        hippocampus, ventricles, sulci = (a + self.rate * month / 12 for a in self.atrophy)
        return hippocampus, ventricles, sulci


def get_setting(setting: str | BrainSetting) -> BrainSetting:
    """The setting of that name; a :class:`BrainSetting` passes through.

    Raises:
        UnknownNameError: No setting has that name.
    """
    if isinstance(setting, BrainSetting):
        return setting
    if setting not in SETTINGS:
        raise UnknownNameError("brain phantom setting", setting, SETTINGS)
    return SETTINGS[setting]


def make_scanners(setting: BrainSetting) -> list[Scanner]:
    """The setting's scanners, every second one at 3 T. They belong to the setting, not to a cohort's seed."""
    rng = np.random.default_rng([setting.site_seed, STREAM_SITES])
    ranges, out = setting.scanners, []
    for i in range(setting.n_sites):
        field_strength = 3.0 if i % 2 else 1.5
        out.append(
            Scanner(
                code=setting.first_site + i,
                field_strength=field_strength,
                gm=float(rng.normal(0, 4)),
                wm=float(rng.normal(0, 5)),
                gain=float(rng.uniform(0.9, 1.1)),
                gamma=float(rng.uniform(*ranges.gamma)),
                bias=float(rng.uniform(*ranges.bias)),
                blur=float(rng.uniform(*ranges.blur)),
                noise=float(rng.uniform(*(ranges.noise_3t if field_strength > 2 else ranges.noise_15t))),
            )
        )
    return out


def draw_latents(rng: np.random.Generator, setting: BrainSetting, n: int) -> tuple[Array, Array, Array, Array, Array]:
    """Draws ``n`` people from the model.

    Returns:
        ``dx`` int, ``age`` in years, ``female`` bool, ``atrophy`` and ``cognition``; ``[n]``, atrophy ``[n, 3]``.
    """
    dx = rng.choice(3, n, p=setting.prior)
    age = np.clip(rng.normal(_AGE_MEAN[dx], _AGE_SD[dx]), 55, 92)
    female = rng.random(n) < _FEMALE[dx]
    residual = rng.multivariate_normal(np.zeros(3), _covariance(setting), n, method="cholesky")
    severity = np.array(setting.mu)[dx][:, None] * np.array(setting.loading)
    atrophy = severity + _ageing(setting, age) + residual
    noise = setting.cognition_sd * rng.standard_normal(n)
    cognition = np.array(setting.cognition)[dx] + _COGNITION_SHARE * residual.mean(1) + noise
    return dx, age, female, atrophy, cognition


def plan_subject(
    setting: BrainSetting, seed: int, index: int, *, max_visits: int = 5, site_confound: float = 0.0
) -> Subject:
    """Draws subject ``index`` of the cohort of ``seed``, alone.

    Args:
        setting: A setting with diagnoses.
        seed: The cohort's seed.
        index: 0 and up.
        max_visits: Upper bound of the visits, 1..8. Beyond 5, some of those who come for 36 months come for 48 to 72,
            and some of them convert then; what happens before is the same for every bound.
        site_confound: 0 makes site and diagnosis independent; at 1 the first sites scan mostly CN, the last mostly AD.

    Raises:
        ConfigError: The setting has no diagnoses.
    """
    if not setting.diagnosed:
        raise ConfigError(f"setting {setting.name!r} is a population without diagnoses; generate_ageing renders it")
    rng = np.random.default_rng([seed, STREAM_SUBJECT, index])
    dx, age, female, atrophy, cognition = (values[0] for values in draw_latents(rng, setting, 1))
    weights = np.exp(site_confound * (int(dx) - 1) * np.linspace(-2, 2, setting.n_sites))
    site = int(rng.choice(setting.n_sites, p=weights / weights.sum()))
    conversion_month = np.inf
    if dx == 1:
        ahead = 1.1 * (cognition - setting.cognition[1]) + 0.9 * (
            atrophy.mean() - setting.mu[1] * np.mean(setting.loading)
        )
        if rng.random() < 1 / (1 + np.exp(0.2 - ahead)):
            conversion_month = float(rng.choice([6, 12, 18, 24, 30, 36]))
    rate = (0.08, 0.35 if np.isfinite(conversion_month) else 0.12, 0.45)[dx]
    n_visits = int(rng.choice(5, p=_VISIT_COUNTS[dx])) + 1
    subject = Subject(
        index=index,
        dx=int(dx),
        age=float(age),
        female=bool(female),
        atrophy=(float(atrophy[0]), float(atrophy[1]), float(atrophy[2])),
        cognition=float(cognition),
        site=site,
        education=int(np.clip(round(rng.normal(16, 2.8)), 6, 20)),
        apoe4=int(rng.choice(3, p=_APOE4[dx])),
        conversion_month=conversion_month,
        rate=rate,
        n_visits=min(n_visits, max_visits),
    )
    followed_on = n_visits == len(_VISIT_COUNTS[0]) < max_visits
    return _followed_on(subject, seed, max_visits) if followed_on else subject


def _followed_on(subject: Subject, seed: int, max_visits: int) -> Subject:
    """The subject with visits after 36 months; stable impairment may still turn into dementia, at an even risk."""
    rng = np.random.default_rng([seed, STREAM_LATE, subject.index])
    more, late = int(rng.choice(4, p=_LATE_COUNTS[subject.dx])), float(rng.choice([42, 48, 54, 60, 66]))
    converts = rng.random() < 0.2 and subject.dx == 1 and not np.isfinite(subject.conversion_month)
    return replace(
        subject,
        n_visits=min(subject.n_visits + more, max_visits),
        conversion_month=late if converts else subject.conversion_month,
    )


def draw_ageing(rng: np.random.Generator, setting: BrainSetting) -> tuple[float, bool, tuple[float, float, float]]:
    """One person of a healthy-ageing population: age (years), sex (True for female) and atrophy latents.

    Atrophy rises with age and varies widely between people of one age, over the range that the diagnosed cohorts cover;
    nothing in it marks a disease.
    """
    age = rng.uniform(*setting.ageing_range)
    female = bool(rng.random() < 0.5)
    shared = rng.standard_normal()
    shifts = rng.multivariate_normal(np.zeros(3), _covariance(setting), method="cholesky")
    atrophy = 1.2 * (age - 65) / 10 * np.array([0.8, 1.0, 0.9]) + shared + shifts
    return float(age), female, (float(atrophy[0]), float(atrophy[1]), float(atrophy[2]))


def clinical_scores(
    rng: np.random.Generator, setting: BrainSetting, cognition: float, female: bool, education: int
) -> dict[str, float]:
    """Test scores of one visit: noisy, rounded, partly missing (NaN) readings of the cognition latent.

    Returns:
        One value per name of ``SCORES``, in each test's own units and range.
    """
    c = max(cognition, -1.0)
    curve = c * abs(c)
    mmse = 29.2 - 0.45 * c - 0.20 * curve + 0.08 * (education - 16) + rng.normal(0, 0.9)
    adas13 = float(np.clip(9.0 + 1.5 * c + 0.75 * curve + rng.normal(0, 3.0), 0, 85))
    out = {
        "MMSE": float(np.clip(round(mmse), 4, 30)),
        "ADAS13": round(adas13, 2),
        "ADAS11": round(float(np.clip(0.66 * adas13 + rng.normal(0, 1.0), 0, 70)), 2),
        "CDRSB": float(np.clip(round(2 * (0.85 * max(0.0, c - 1.0) + rng.normal(0, 0.45))) / 2, 0, 18)),
        "FAQ": float(np.clip(round(0.60 * c * max(c, 0.0) + rng.normal(0, 1.6)), 0, 30)),
        "RAVLT_immediate": float(np.clip(round(45 - 5 * c + 2.5 * female + rng.normal(0, 6)), 0, 75)),
        "MOCA": float(np.clip(round(26 - 1.5 * c + rng.normal(0, 1.6)), 0, 30)),
    }
    return {name: value if rng.random() >= setting.missing else float("nan") for name, value in out.items()}


def log_posterior_image(setting: BrainSetting, atrophy: Array, age: Array) -> Array:
    """Unnormalised log p(dx | atrophy latents, age), ``[n, 3]``: what a perfect reader of image and age knows."""
    precision = np.linalg.inv(_covariance(setting))
    residual = atrophy - _ageing(setting, age)
    out = []
    for k in range(3):
        d = residual - setting.mu[k] * np.array(setting.loading)
        out.append(-0.5 * np.einsum("ni,ij,nj->n", d, precision, d))
    return np.stack(out, axis=1) + _log_prior(setting, age)


def log_likelihood_cognition(setting: BrainSetting, cognition: Array) -> Array:
    """Log p(cognition latent | dx) up to a constant, ``[n, 3]``: what perfect clinical scores know."""
    variance = setting.cognition_sd**2 + _COGNITION_SHARE**2 * (1 + 2 * setting.corr) / 3
    return -0.5 * (cognition[:, None] - np.array(setting.cognition)) ** 2 / variance


def bayes_macro_f1(setting: str | BrainSetting, n: int = 200_000, seed: int = 0) -> dict[str, float]:
    """Macro-F1 of the closed-form posterior over ``n`` simulated baseline subjects.

    It reads the latents themselves, without image or test noise, so a model that sees pixels and scores stays below it.
    ``both`` adds the two as if independent given the diagnosis; the small residual that they share is ignored.

    Returns:
        ``image`` (atrophy and age), ``text`` (cognition and age) and ``both``, each 0..1.

    Raises:
        ConfigError: The setting has no diagnoses.
    """
    from sklearn.metrics import f1_score

    setting = get_setting(setting)
    if not setting.diagnosed:
        raise ConfigError(f"setting {setting.name!r} has no diagnoses, so there is no score to bound")
    dx, age, _, atrophy, cognition = draw_latents(np.random.default_rng(seed), setting, n)
    image, text = log_posterior_image(setting, atrophy, age), log_likelihood_cognition(setting, cognition)
    evidence = {"image": image, "text": text + _log_prior(setting, age), "both": image + text}
    return {name: float(f1_score(dx, logits.argmax(1), average="macro")) for name, logits in evidence.items()}


def setting_record(setting: BrainSetting) -> dict[str, Any]:
    """The setting as plain JSON values, for the cohort's marker file."""
    return asdict(setting)


def _covariance(setting: BrainSetting) -> Array:
    """Covariance of the latents within a class, ``[3, 3]``."""
    return np.full((3, 3), setting.corr) + (1 - setting.corr) * np.eye(3)


def _ageing(setting: BrainSetting, age: Array) -> Array:
    """Shift of the latents by age, ``[n, 3]``."""
    return (age[:, None] - 74) / 7 * np.array(setting.age_slope)


def _log_prior(setting: BrainSetting, age: Array) -> Array:
    """Log p(dx) p(age | dx) up to a constant, ``[n, 3]``."""
    return np.log(setting.prior) - 0.5 * ((age[:, None] - _AGE_MEAN) / _AGE_SD) ** 2 - np.log(_AGE_SD)
