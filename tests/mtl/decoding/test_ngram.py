"""Witten-Bell by hand, distributions that sum to one, ARPA there and back."""

import gzip
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtl.decoding.ngram import END, UNKNOWN, NGram

TEXTS = ["a b", "a c", "a b"]
sentences = st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=5).map(" ".join), min_size=1, max_size=8)


def test_by_hand():
    model = NGram.train(TEXTS, order=2)
    # Words a 3, b 2, c 1, </s> 3: nine of four kinds; with <unk> five are known. P(b) = (2 + 4/5) / (9 + 4).
    b = 2.8 / 13
    assert model.score((), "b") == pytest.approx(math.log(b))
    # After a: b twice and c once, three of two kinds. P(b | a) = (2 + 2 P(b)) / (3 + 2).
    assert model.score(("a",), "b") == pytest.approx(math.log((2 + 2 * b) / 5))
    # a never follows a: back-off 2 / (3 + 2) times P(a) = (3 + 4/5) / 13.
    assert model.score(("a",), "a") == pytest.approx(math.log(2 / 5 * 3.8 / 13))
    assert model.score(("a",), "zebra") == pytest.approx(math.log(2 / 5 * 0.8 / 13))
    assert model.vocabulary == {"a", "b", "c"}


@settings(deadline=None)
@given(texts=sentences, order=st.integers(1, 4), context=st.lists(st.sampled_from("abcdx"), max_size=4))
def test_every_context_s_probabilities_sum_to_one(texts, order, context):
    model = NGram.train(texts, order)
    words = [*model.vocabulary, END, UNKNOWN]
    assert sum(math.exp(model.score((*model.start, *context), word)) for word in words) == pytest.approx(1)


@settings(deadline=None)
@given(texts=sentences, order=st.integers(1, 4))
def test_arpa_comes_back(texts, order):
    model = NGram.train(texts, order)
    again = NGram.from_arpa(model.to_arpa())
    assert again.order == model.order
    for context in (model.start, ("a",), ("a", "b"), ("d", "x")):
        for word in ("a", "d", END, "zebra"):
            assert again.score(context, word) == pytest.approx(model.score(context, word), abs=1e-4)


def test_what_cannot_be_read_is_named():
    with pytest.raises(ValueError, match="line 5"):
        NGram.from_arpa("\\data\\\nngram 1=1\n\n\\1-grams:\n-0.5 a b c\n\\end\\\n")
    with pytest.raises(ValueError, match="no ARPA"):
        NGram.from_arpa("hello")
    with pytest.raises(ValueError, match="at least one sentence"):
        NGram.train([])


# As lmplz writes it: <unk> first, log P(<s>) = 0, no back-off weight on the highest order.
LMPLZ = """\\data\\
ngram 1=4
ngram 2=2

\\1-grams:
-1.5\t<unk>\t0
0\t<s>\t-0.3
-0.6\t</s>\t0
-0.4\ta\t-0.2

\\2-grams:
-0.1\t<s> a
-0.25\ta </s>

\\end\\
"""


@pytest.mark.parametrize(
    "text", [LMPLZ, LMPLZ.replace("\t", " "), LMPLZ.replace("\t0\n", "\n"), LMPLZ.replace("\n", "\r\n")]
)
def test_reads_what_lmplz_writes(tmp_path, text):
    (tmp_path / "lm.arpa").write_bytes(text.encode())
    (tmp_path / "lm.arpa.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("lm.arpa", "lm.arpa.gz"):
        model = NGram.read(tmp_path / name)
        assert model.order == 2
        assert model.vocabulary == {"a"}
        tens = {(word, context): model.score(context, word) / math.log(10) for word, context in PAIRS}
        # a a: back-off of a, -0.2, and a alone; zebra behind <s>: its back-off, -0.3, and <unk>.
        assert tens == pytest.approx(dict(zip(PAIRS, [-0.1, -0.25, -0.6, -1.8, -1.7], strict=True)))


PAIRS = [("a", ("<s>",)), (END, ("a",)), ("a", ("a",)), ("zebra", ("<s>",)), ("zebra", ("a",))]


def test_a_model_without_unknown_words_all_but_forbids_them():
    model = NGram.from_arpa("\\data\\\nngram 1=2\n\\1-grams:\n-0.3 a\n-0.3 </s>\n\\end\\\n")
    assert model.score((), "zebra") == pytest.approx(-100 * math.log(10))


def test_the_best_word_of_each_beginning():
    model = NGram.train(["ab a", "ab b"], order=2)
    best = {word: model.score((), word) for word in ("ab", "a", "b")}
    assert dict(model.best_by_prefix) == pytest.approx(
        {"": best["ab"], "a": best["ab"], "ab": best["ab"], "b": best["b"]}
    )


def test_a_file_that_was_cut_off_is_refused(tmp_path):
    (tmp_path / "cut.arpa").write_text(LMPLZ.replace("-0.25\ta </s>\n", ""))
    with pytest.raises(ValueError, match=r"cut.arpa: .* 1 2-grams of 2"):
        NGram.read(tmp_path / "cut.arpa")
    (tmp_path / "cut.arpa.gz").write_bytes(gzip.compress(LMPLZ.encode())[:-20])
    with pytest.raises(ValueError, match=r"cut.arpa.gz: "):
        NGram.read(tmp_path / "cut.arpa.gz")
    with pytest.raises(ValueError, match=r"no \\end"):
        NGram.from_arpa(LMPLZ.replace("\\end\\", ""))
