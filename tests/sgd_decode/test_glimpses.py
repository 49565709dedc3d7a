"""What a stream says is the answer: put together it is the final text, and nothing said is ever taken back."""

from hypothesis import given
from hypothesis import strategies as st

from llmsys.sgd_decode import Decoder, DecodeSettings, Match, Rule, ScriptBackend, writer_for
from llmsys.sgd_decode.glimpses import AsTheyCome, Glimpse, InOrder, whole_sentences
from llmsys.sgd_decode.writing import at_sentence_end
from tests.sgd_decode.stand_ins import question

PLAN = "1. Alpha | needs - | level 1\n2. Beta | needs 1 | level 1\n3. Gamma | needs - | level 1\nend"
words = st.sampled_from(["one", "two.", "three!", "3.", "14", "“quoted.”", "\n", "end?", "…"])
texts = st.lists(words, max_size=14).map(" ".join)


def part(number, text="", **fields):
    return Rule(Match(f"about part {number},"), text, **fields)


def streamed(rules, view, **fields):
    """All news of one question, turn by turn, and its answer."""
    decoder = Decoder(ScriptBackend([Rule(Match("Write an outline"), PLAN), *rules]))
    writer = writer_for(DecodeSettings(**fields))(question(0))
    decoder.add(writer)
    news = []
    while not writer.done:
        decoder.turn()
        news += view.news(writer.glimpses())
    return news, writer.answer()


@given(texts, st.integers(0, 60))
def test_what_is_certain_of_a_growing_text_is_in_every_later_cut_of_it(text, length):
    certain = whole_sentences(text[:length])

    assert at_sentence_end(text).strip().startswith(certain)
    assert text.strip().startswith(certain)


@given(texts, texts, texts, st.booleans(), st.sampled_from(["sgd", "sgd-v1", "sot", "auto", "ar"]))
def test_the_news_in_order_put_together_are_the_answer(first, second, third, headings, mode):
    parts = [first, second, third]
    rules = [
        Rule(Match("Give the skeleton"), "1. Alpha\n2. Beta\n3. Gamma"),
        *(part(number, text) for number, text in enumerate(parts, 1)),
        *(Rule(Match(f"point {number} of"), text) for number, text in enumerate(parts, 1)),
        Rule(Match("Why?"), "In one piece. " + first),
    ]
    news, done = streamed(rules, InOrder(), mode=mode, headings=headings)

    assert "".join(piece.text for piece in news) == done.text
    assert [piece.part for piece in news] == sorted(piece.part for piece in news)


def test_a_part_is_heard_sentence_by_sentence_while_it_is_written_and_later_parts_wait_for_it():
    long = "It begins. " + " ".join(f"Then comes number {count}." for count in range(12))
    news, done = streamed([part(1, long), part(2, "So."), part(3, "Quickly done.")], InOrder())

    assert news[0].text.startswith("It begins.")
    assert all(piece.text.endswith(".") for piece in news)
    assert [piece.part for piece in news][-2:] == [2, 3]
    assert len(news) > 8
    assert done.parts[2].end_s < done.parts[0].end_s


def test_parts_as_they_come_are_heard_each_on_its_own():
    long = "It begins. " + " ".join(f"Then comes number {count}." for count in range(12))
    news, done = streamed([part(1, long), part(2, "So."), part(3, "Quickly done.")], AsTheyCome())
    texts = {number: "".join(piece.text for piece in news if piece.part == number) for number in (1, 2, 3)}

    assert [piece.part for piece in news].index(3) < [piece.part for piece in news].index(2)
    assert texts == {written.id: written.text for written in done.parts}


def test_a_part_that_cannot_be_written_is_heard_as_its_mark():
    news, done = streamed([part(1, error="down"), part(2, "So."), part(3, "Done.")], InOrder(), retries=0)

    assert "".join(piece.text for piece in news) == done.text
    assert done.text.startswith("[part 1 unavailable]")


def test_nothing_is_heard_of_a_plan_that_may_still_be_given_up():
    chain = "1. A | needs - | level 1\n2. B | needs 1 | level 1\nend"
    decoder = Decoder(ScriptBackend([Rule(Match("Write an outline"), chain), Rule(Match("Why?"), "Because.")]))
    writer = writer_for(DecodeSettings(mode="auto"))(question(0))
    decoder.add(writer)
    assert list(writer.glimpses()) == []
    while not writer.done:
        decoder.turn()
    assert [glimpse.part for glimpse in writer.glimpses()] == [0] or writer.answer().mode == "sgd"


def test_a_part_that_is_begun_anew_with_other_words_is_said_again_from_its_start():
    view, apart = InOrder(), AsTheyCome()
    first, other = Glimpse(1, "A", "One. Two.", ended=False), Glimpse(1, "A", "Three.", ended=True)
    same = Glimpse(1, "A", "One.", ended=False)

    assert [piece.text for piece in view.news([first])] == ["One. Two."]
    assert list(view.news([same])) == []
    assert [piece.text for piece in view.news([other])] == ["\n\nThree."]
    assert [piece.restart for piece in apart.news([first])] == [False]
    assert list(apart.news([same])) == []
    assert [(piece.text, piece.restart) for piece in apart.news([other])] == [("Three.", True)]
