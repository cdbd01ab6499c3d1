from nbft.catalogue.models import models
from nbft.config import Config


def test_the_default_is_always_offered(empty_cache, tmp_path):
    config = Config(training={"output_dir": str(tmp_path / "runs")})
    first = models(config, folder=tmp_path)[0]
    assert first.name == "smollm2-135m"
    assert first.where == "download 257 MiB"
