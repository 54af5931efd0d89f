"""Which files of samples a plan takes."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigError
from pipeline.planning.from_models import plan_audit
from tests.conftest import ConfigMaker


def test_trusted_ids_that_are_repeated_are_refused(make_config: ConfigMaker, digits: Path, tmp_path: Path) -> None:
    table = pq.read_table(digits / "trusted.parquet")
    repeated = tmp_path / "repeated.parquet"
    pq.write_table(pa.concat_tables([table.slice(0, 5), table.slice(3, 2)]), repeated)
    named = r"2 repeated ids among 7 samples \('trusted-0003', 'trusted-0004'\)"
    with pytest.raises(ConfigError, match=rf"^model digits: data.trusted: {named}; the split needs each id once"):
        plan_audit(make_config(data={"trusted": str(repeated)}))
