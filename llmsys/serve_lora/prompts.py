"""Prompts that adapters are taught and judged with: a list of our own, and files of questions.

A file holds JSON Lines {"id", "question", "split"?}; `split` is `train` or `held-out`, and a record without one is of
both kinds. Knows nothing of tasks or models.
"""

from pathlib import Path
from typing import Literal

import msgspec

from llmsys.artifacts import read_records

__all__ = ["TEACHING_PROMPTS", "Prompt", "read_prompts"]

Split = Literal["train", "held-out"]

# Written for this project: short questions of many kinds, none of them in the held-out set.
TEACHING_PROMPTS = (
    "What is the capital of Portugal?",
    "Why is the sky blue?",
    "How do I boil an egg?",
    "Give me three tips for sleeping better.",
    "Explain how a bicycle stays upright.",
    "What does a compiler do?",
    "Write a short poem about rain.",
    "Who wrote Don Quixote?",
    "How does a refrigerator keep food cold?",
    "What are the benefits of walking every day?",
    "Describe the taste of a ripe mango.",
    "How many days are there in a leap year?",
    "What is the difference between weather and climate?",
    "Suggest a name for a small bakery.",
    "Why do cats purr?",
    "How can I learn to play the guitar?",
    "What is a black hole?",
    "Write a Python function that reverses a string.",
    "What should I pack for a weekend in the mountains?",
    "Explain what inflation means.",
    "How do bees make honey?",
    "What would you say to a friend who lost a job?",
    "Pretend you are a lighthouse keeper. Describe your night.",
    "Tell me about the history of chess.",
    "What is photosynthesis?",
    "How do I write a good cover letter?",
    "If I have 12 apples and give away 5, how many are left?",
    "What makes bread rise?",
    "Recommend a hobby for a rainy afternoon.",
    "Why is it important to drink water?",
    "Write a short message that thanks a teacher.",
    "What is the largest ocean on Earth?",
    "How do airplanes fly?",
    "What is the role of a mayor?",
    "How can a city reduce traffic?",
    "What if humans could breathe under water?",
    "Solve the equation 2x + 6 = 14.",
    "Explain recursion to a ten-year-old.",
    "What are the main parts of a plant?",
    "How should I prepare for a job interview?",
    "Describe a busy market in the morning.",
    "Why do leaves change colour in autumn?",
    "Write a SQL query that counts the rows of a table.",
    "What are common causes of headaches?",
    "How is paper made?",
    "As a museum guide, introduce a painting of a storm.",
    "What is the speed of light?",
    "Draft an invitation to a garden party.",
    "How do vaccines protect people?",
    "What are the advantages of public libraries?",
    "Why do people enjoy music?",
    "Name a good present for a gardener.",
    "How does a search engine find pages?",
    "What is the purpose of a constitution?",
    "Write a product description for a wooden chair.",
    "What happens when water freezes?",
)


class Prompt(msgspec.Struct, frozen=True, omit_defaults=True):
    """One question of a prompt file."""

    id: str
    question: str
    split: Split | None = None


def read_prompts(path: str | Path, split: Split) -> list[str]:
    """The questions of a file that belong to a split, in file order. Raises BadInput as `read_records` does."""
    return [prompt.question for prompt in read_records(path, Prompt) if prompt.split in (None, split)]
