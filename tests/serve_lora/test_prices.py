"""A price list says which key is wrong."""

import pytest

from llmsys.errors import BadInput
from llmsys.serve_lora.prices import PriceList, read_prices


def test_without_a_file_an_hour_costs_one_device_hour():
    assert PriceList().of_device(1800) == 0.5
    assert PriceList().of_memory(1e15) == 0.0


def test_prices_are_read_from_toml(tmp_path):
    path = tmp_path / "prices.toml"
    path.write_text('currency = "USD"\ndevice_per_hour = 2\nhost_ram_gb_per_hour = 0.5\n')

    prices = read_prices(path)

    assert (prices.currency, prices.of_device(3600), prices.of_memory(3600e9)) == ("USD", 2.0, 0.5)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("device_per_hour = -1", "device_per_hour"),
        ("device_per_hour = nan", "device_per_hour"),
        ("gpu_hour = 1", "gpu_hour"),
        ("device_per_hour = '1'", "device_per_hour"),
        ("device_per_hour", "prices.toml"),
        ("currency = 3", "currency"),
    ],
)
def test_a_bad_price_is_named_with_what_would_be_right(tmp_path, text, named):
    path = tmp_path / "prices.toml"
    path.write_text(text)

    with pytest.raises(BadInput, match=named):
        read_prices(path)


def test_a_missing_file_is_bad_input(tmp_path):
    with pytest.raises(BadInput, match=r"none\.toml"):
        read_prices(tmp_path / "none.toml")
