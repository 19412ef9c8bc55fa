from irl_vla.ledger.estimate import Estimate


def test_an_estimate_reads_as_a_sentence():
    assert str(Estimate("labels", 154_932, 9_915_648, 1.03, 350_000_000)) == (
        "labels: 154,932 rows, 9,915,648 plans, 1 core hours, 350 MB"
    )
    assert str(Estimate("prepared scenes", 12, 0, 0.001, 1_200)) == "prepared scenes: 12 rows, 0.001 core hours, 1.2 kB"
    assert str(Estimate("x", 1, 0, 2.0, 3 * 10**12)).endswith("3 TB")
