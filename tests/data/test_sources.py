"""Each dataset's files are found and paired in the layout in which they are distributed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from moceir.cli.options import load_sources
from moceir.data.pictures import tiles
from moceir.data.sources import CleanPictures, IsoSeries, Listing, MatBlocks, MatchedFiles, PairsTable
from moceir.pictures.arrays import read_picture, write_picture
from moceir.pictures.picture import PictureError


def listing(root: Path, data: str, *overrides: str) -> Listing:
    (source,) = load_sources(data, list(overrides)).values()
    folder = source.locate(root)
    assert folder is not None
    return source.find(folder)


def partners(found: Listing) -> dict[str, str | None]:
    """Map degraded file -> clean file, or clean file -> None, relative to the dataset's folder."""
    relative = {}
    for pair in found.pairs:
        clean = Path(str(pair.clean)).relative_to(found.folder).as_posix()
        if pair.degraded:
            relative[Path(str(pair.degraded)).relative_to(found.folder).as_posix()] = clean
        else:
            relative[clean] = None
    return relative


@pytest.mark.parametrize(("data", "count"), [("bsd400", 4), ("wed", 4)])
def test_clean_folders(tree: Path, data: str, count: int) -> None:
    found = listing(tree, data)
    assert len(found.pairs) == count
    assert all(pair.degraded is None for pair in found.pairs)
    assert len({pair.group for pair in found.pairs}) == count, "each picture is a group of its own"


def test_sidd_is_paired_and_cut(tree: Path) -> None:
    found = listing(tree, "sidd")
    assert found.folder.name == "SIDD_Medium_Srgb"
    scene = "0001_001_S6_00100_00060_3200_L"
    assert partners(found)[f"Data/{scene}/0001_NOISY_SRGB_010.PNG"] == f"Data/{scene}/0001_GT_SRGB_010.PNG"
    assert len(found.pairs) == 3 + 2 * 3, "three small pictures whole, and 2 × 3 squares of the one of 1000×520"
    assert {pair.group for pair in found.pairs} == {scene, "0002_001_S6_00100_00020_3200_N"}
    last = next(pair for pair in found.pairs if pair.name.endswith("0001_NOISY_SRGB_010-005"))
    clean, degraded = last.open()
    whole = read_picture(Path(str(last.degraded)))
    assert clean.shape == degraded.shape == (512, 512, 3)
    assert np.array_equal(degraded, whole[-512:, -512:]), "the last square ends at the border"
    assert not np.array_equal(clean, degraded)


def test_sidd_has_as_many_squares_as_the_document_says() -> None:
    """30,608 = 102 photographs of the phones with wide sensors and 218 of the others (sizes of SIDD-Medium)."""
    wide, narrow = ((3000, 5328), (2988, 5312)), ((3024, 4032), (3044, 4048), (3120, 4208))
    for (height, width), count in [*((size, 112) for size in wide), *((size, 88) for size in narrow)]:
        assert len(list(tiles(height, width, size=512, stride=384))) == count
    assert 102 * 112 + 218 * 88 == 30608


def test_tiles_cover_everything_and_end_at_the_border() -> None:
    seen = np.zeros((50, 37), int)
    windows = list(tiles(50, 37, size=16, stride=12))
    for window in windows:
        assert window.of(seen).shape == (16, 16)
        window.of(seen)[:] += 1
    assert seen.min() >= 1
    assert (windows[-1].top, windows[-1].left) == (34, 21)
    assert next(tiles(10, 40, size=16, stride=16)) == (0, 0, 10, 16)
    assert [*tiles(16, 16, size=16, stride=12)] == [(0, 0, 16, 16)]


def test_nind_pairs_every_iso_with_the_lowest(tree: Path) -> None:
    found = listing(tree, "nind")
    assert partners(found) == {
        "banana/NIND_banana_ISO6400-2.jpg": "banana/NIND_banana_ISO400.jpg",
        "droid/NIND_droid_ISO200_2.jpg": "droid/NIND_droid_ISO200.jpg",
        "droid/NIND_droid_ISO800.jpg": "droid/NIND_droid_ISO200.jpg",
        "droid/NIND_droid_ISOH1.jpg": "droid/NIND_droid_ISO200.jpg",
        "fan/NIND_fan_ISOH2.png": "fan/NIND_fan_ISO200.png",
    }
    assert {pair.group for pair in found.pairs} == {"banana", "droid", "fan"}


def test_a_lonely_nind_picture_is_reported(tmp_path: Path, photograph: np.ndarray) -> None:
    write_picture(tmp_path / "a" / "NIND_a_ISO200.png", photograph)
    found = IsoSeries(folders=["."]).find(tmp_path)
    assert not found.pairs
    assert found.unpaired == [str(tmp_path / "a" / "NIND_a_ISO200.png")]


def test_polyu(tree: Path) -> None:
    found = listing(tree, "polyu")
    pairs = partners(found)
    assert len(pairs) == 6
    assert all(clean == degraded.replace("_real", "_mean") for degraded, clean in pairs.items())
    scenes = {"Canon5D2_5_160_3200_toy", "NikonD800_6-3_125_5000_plant", "Sony_4_200_3200_door"}
    assert {pair.group for pair in found.pairs} == scenes


def test_gopro_and_its_gamma_version(tree: Path) -> None:
    found = partners(listing(tree, "gopro"))
    assert len(found) == 4
    assert found["train/GOPR0372_07_00/blur/000047.png"] == "train/GOPR0372_07_00/sharp/000047.png"
    gamma = partners(listing(tree, "gopro", "gopro_blur=blur_gamma"))
    assert gamma["train/GOPR0372_07_00/blur_gamma/000047.png"] == "train/GOPR0372_07_00/sharp/000047.png"
    test = partners(listing(tree, "gopro_test"))
    assert set(test) == {f"test/GOPR0384_11_00/blur/{frame}.png" for frame in ("000047", "000048")}


@pytest.mark.parametrize(("data", "suffix"), [("reds_blur", "png"), ("reds_blur_jpeg", "jpg")])
def test_reds_shares_its_sharp_frames(tree: Path, data: str, suffix: str) -> None:
    found = partners(listing(tree, data))
    assert len(found) == 6
    assert found[f"train_{data[5:]}/001/00000001.{suffix}"] == "train_sharp/001/00000001.png"


def test_two_folders_of_ones_own(tree: Path) -> None:
    found = partners(listing(tree / "REDS", "pairs", "pairs.degraded=train_blur_jpeg", "pairs.clean=train_sharp"))
    assert found["train_blur_jpeg/002/00000000.jpg"] == "train_sharp/002/00000000.png"
    assert len(found) == 6


def test_a_table_of_pairs(tmp_path: Path, photograph: np.ndarray) -> None:
    for name in ("a.png", "sub/b.jpg", "c.png"):
        write_picture(tmp_path / name, photograph)
    table = tmp_path / "pairs.csv"
    table.write_text("degraded,clean,group\na.png,c.png,one\nsub/b.jpg,c.png,\nabsent.png,c.png,\n")
    found = PairsTable(folders=["."], table="pairs.csv").find(tmp_path)
    assert partners(found) == {"a.png": "c.png", "sub/b.jpg": "c.png"}
    assert [pair.group for pair in found.pairs] == ["one", "sub/b"]
    assert found.unpaired == [f"{table}, line 4: {tmp_path / 'absent.png'}"]
    table.write_text("noisy,clean\n")
    with pytest.raises(ValueError, match=r"pairs\.csv: needs the columns degraded and clean"):
        PairsTable(folders=["."], table="pairs.csv").find(tmp_path)


def test_matlab_blocks(tmp_path: Path) -> None:
    blocks = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 9, 3), dtype=np.uint8)
    savemat(tmp_path / "ValidationNoisyBlocksSrgb.mat", {"ValidationNoisyBlocksSrgb": blocks})
    savemat(tmp_path / "ValidationGtBlocksSrgb.mat", {"ValidationGtBlocksSrgb": 255 - blocks})
    found = listing(tmp_path, "sidd_validation")
    assert len(found.pairs) == 6
    clean, degraded = found.pairs[4].open()
    assert np.array_equal(degraded, blocks[1, 1])
    assert np.array_equal(clean, 255 - degraded)


def test_broken_matlab_files_are_named(tmp_path: Path) -> None:
    for name, arrays in {"a": {"a": np.zeros((2, 4, 4, 3), np.uint8)}, "b": {"b": np.zeros(3)}}.items():
        savemat(tmp_path / f"{name}.mat", arrays)
    (tmp_path / "c.mat").write_bytes((tmp_path / "a.mat").read_bytes()[:150])
    with pytest.raises(PictureError, match=r"b\.mat: holds 0 arrays of 8-bit RGB pictures"):
        MatBlocks(folders=["."], degraded="b.mat", clean="a.mat").find(tmp_path)
    with pytest.raises(PictureError, match=r"c\.mat: not a readable MATLAB file"):
        MatBlocks(folders=["."], degraded="a.mat", clean="c.mat").find(tmp_path)


def test_missing_partners_are_reported_from_both_sides(tmp_path: Path, photograph: np.ndarray) -> None:
    for name in ("blur/s/1", "blur/s/2", "sharp/s/2", "sharp/s/3"):
        write_picture(tmp_path / f"{name}.png", photograph)
    found = MatchedFiles(folders=["."], degraded="blur/{group}/{frame}", clean="sharp/{group}/{frame}").find(tmp_path)
    assert [pair.name for pair in found.pairs] == ["blur/s/2"]
    assert found.unpaired == [str(tmp_path / "blur/s/1.png"), str(tmp_path / "sharp/s/3.png")]


def test_folders_are_found_one_level_down_and_ambiguity_is_an_error(tree: Path, tmp_path: Path) -> None:
    source = CleanPictures(folders=["BSD400", "other"])
    assert source.locate(tree.parent / "nowhere") is None
    shutil.copytree(tree / "BSD400", tmp_path / "train" / "BSD400")
    assert source.locate(tmp_path) == tmp_path / "train" / "BSD400"
    (tmp_path / "test" / "BSD400").mkdir(parents=True)
    with pytest.raises(ValueError, match="each could be this dataset"):
        source.locate(tmp_path)
    (tmp_path / "BSD400").mkdir()
    assert source.locate(tmp_path) == tmp_path / "BSD400", "directly in the folder comes first"


def test_scenes_are_not_split(tree: Path) -> None:
    (source,) = load_sources("polyu", ["data.sets.PolyU.test=1", "data.sets.PolyU.validation=1"]).values()
    parts = source.split(source.find(tree / "PolyU").pairs)
    groups = {name: {pair.group for pair in pairs} for name, pairs in parts.items()}
    assert {name: len(group) for name, group in groups.items()} == {"train": 1, "validation": 1, "test": 1}
    assert len(set().union(*groups.values())) == 3
    assert sum(map(len, parts.values())) == 6
    with pytest.raises(ValueError, match="test=6 of 3 scenes or pictures: leave at least one for training"):
        load_sources("polyu", [])["PolyU"].split(source.find(tree / "PolyU").pairs)


def test_reds_holds_out_the_same_sequences(tree: Path) -> None:
    held_out = []
    for source in load_sources("deblur", ["~data.sets.GoPro"]).values():
        held_out.append({pair.group for pair in source.split(source.find(tree / "REDS").pairs)["validation"]})
    assert held_out[0] == held_out[1] != set()


def test_the_real_files(reference: Path) -> None:
    data = reference / "data"
    assert len(listing(data, "bsd400").pairs) == 400
    polyu = listing(data, "polyu")
    assert len(polyu.pairs) == 100
    assert not polyu.unpaired
    assert len({pair.group for pair in polyu.pairs}) == 29, "one scene's name has a stray underscore"
    psnr = []
    for found in (polyu, listing(data, "gopro_test")):
        clean, degraded = (picture.astype(float) for picture in found.pairs[-1].open())
        psnr.append(10 * np.log10(255**2 / np.mean((clean - degraded) ** 2)))
    assert 31 < psnr[0] < 41.1
    assert psnr[1] == pytest.approx(24.05, abs=0.01)
    sidd = MatBlocks(folders=["SIDD_sample"], degraded="noisy.mat", clean="gt.mat")
    (pair,) = sidd.find(sidd.locate(data)).pairs
    clean, degraded = (picture.astype(float) for picture in pair.open())
    assert clean.shape == (256, 256, 3)
    assert 10 * np.log10(255**2 / np.mean((clean - degraded) ** 2)) == pytest.approx(16.15, abs=0.01)


def test_table_1() -> None:
    """The design document states repeats and counts; its rows add up to 86,665 pictures."""
    table = {name: (source.task, source.repeat, source.expected) for name, source in load_sources("all", []).items()}
    assert table == {
        "BSD400": ("synthetic", 4, 400),
        "WED": ("synthetic", 4, 4744),
        "SIDD": ("real_noise", 1, 30608),
        "NIND": ("real_noise", 8, 710),
        "PolyU": ("real_noise", 40, 100),
        "GoPro": ("blur", 3, 2103),
        "REDS_blur": ("blur", 1, 24000),
        "REDS_blur_jpeg": ("blur_jpeg", 1, 24000),
    }
    assert sum(count for *_, count in table.values()) == 86665
    assert {*load_sources("denoise", [])} | {*load_sources("deblur", [])} == set(table)
