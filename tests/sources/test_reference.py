import pytest

from medmerge_hf import InputConvention, MedMergeConfig, NetworkVariant, SourceReference
from medmerge_hf.errors import SettingsError
from medmerge_hf.sources.reference import short_name


def test_every_convention_becomes_a_mean_and_std_of_rgb_pixels():
    caffe = InputConvention.parse("caffe")
    assert caffe.pixel_mean == pytest.approx((123.68 / 255, 116.779 / 255, 103.939 / 255))
    assert caffe.pixel_std == pytest.approx((1 / 255,) * 3)
    grey = InputConvention.parse("torchxrayvision")
    assert (grey.pixel_mean, grey.pixel_std) == ((0.5,), (1 / 2048,))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mean": [0.5, 0.5]}, "one or three"),
        ({"std": [0.0]}, "above 0"),
        ({"value_range": [1, 0]}, "black below white"),
        ({"channel_order": "hsv"}, "rgb, bgr"),
        ({"means": [0.5]}, "unknown means"),
        ("caffee", "not one of imagenet"),
    ],
)
def test_a_wrong_convention_is_refused_with_the_way_out(values, message):
    with pytest.raises(SettingsError, match=message):
        SourceReference("a.pth", input=values)


def test_a_reference_survives_a_config(tmp_path):
    reference = SourceReference(
        "a.pth", input="caffe", variant={"bn_eps": 1e-3, "padding": "tf_same"}, key_map={r"^net\.": ""}
    )
    MedMergeConfig(sources=[reference.to_dict()]).to_json_file(tmp_path / "config.json")
    again = SourceReference.parse(MedMergeConfig.from_json_file(tmp_path / "config.json").sources[0])
    assert again == reference
    assert again.input == InputConvention.parse("caffe")
    assert again.variant == NetworkVariant(bn_eps=1e-3, padding="tf_same")


@pytest.mark.parametrize("value", [{"id": "a", "revison": "main"}, {"file": "a.pth"}, 3])
def test_fields_that_nobody_knows_are_refused(value):
    with pytest.raises(SettingsError):
        SourceReference.parse(value)


def test_a_dialect_names_what_cannot_be_folded():
    assert NetworkVariant(bn_eps=1e-3).unfoldable == ()
    assert NetworkVariant(padding="tf_same", stride="conv1", pooling="max").unfoldable == (
        "padding tf_same",
        "stride in conv1 of a bottleneck",
        "pooling max",
    )
    with pytest.raises(SettingsError, match="padding='keras'"):
        NetworkVariant(padding="keras")


def test_names_are_short():
    assert short_name("/data/resnet18/fundus.safetensors") == "fundus"
    assert short_name("timm/resnet50.a1_in1k") == "resnet50.a1_in1k"
