"""Settings: their layers, their readers, their errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactfs.config import (
    BY_KEY,
    SETTINGS,
    key_of_option,
    load,
    read_duration,
    read_size,
)
from artifactfs.errors import ConfigError


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_later_layers_win_and_each_value_knows_its_source(tmp_path: Path) -> None:
    system = write(tmp_path / "system.toml", '[cache]\nsize = "5G"\nmin_free = "1M"\n')
    user = write(tmp_path / "user.toml", '[cache]\nsize = "6G"\n[list]\nttl = 3\n')
    config = load(
        {"cache.size": "8G", "url": None},
        environ={"ARTIFACTFS_CACHE_SIZE": "7G", "ARTIFACTFS_LIST_TTL": "4s"},
        files=[system, user],
    )
    assert config.cache.size_bytes == 8 << 30
    assert config.sources["cache.size"] == "command line"
    assert config.list.ttl_s == 4
    assert config.sources["list.ttl"] == "ARTIFACTFS_LIST_TTL"
    assert config.cache.min_free_bytes == 1 << 20
    assert config.sources["cache.min_free"] == str(system)
    assert config.sources["url"] == "default"


def test_a_file_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    assert load(environ={}, files=[tmp_path / "none.toml"]).list.ttl_s == 10


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[cache]\nsiz = 1\n", "cache.siz; did you mean cache.size?"),
        ('[cache]\nsize = "many"\n', "cache.size: a size such as 20G"),
        ("[cache]\nsize = true\n", "cache.size: a size such as 20G"),
        ("[list]\nttl = -1\n", "list.ttl: a duration"),
        ('[read]\nconnections = "x"\n', "read.connections: a whole number from 1 to 64"),
        ('fuse = "kernel"\n', "fuse: one of auto, native, fusepy"),
        ('url = "ftp://x"\n', "url: a URL such as"),
        ('url = "https://user:pw@host"\n', "url: a URL such as"),
        ("cache = 5\n", "unknown setting cache"),
        ('token = "flk_secret"\n', "a token does not belong into this file"),
        ("not toml\n", "file.toml"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_file_and_key(
    tmp_path: Path, text: str, words: str
) -> None:
    path = write(tmp_path / "file.toml", text)
    with pytest.raises(ConfigError) as caught:
        load(environ={}, files=[path])
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "flk_secret" not in str(caught.value)


def test_a_wrong_environment_variable_is_named() -> None:
    with pytest.raises(ConfigError, match=r"ARTIFACTFS_DROP_SYNC: drop\.sync: true or false"):
        load(environ={"ARTIFACTFS_DROP_SYNC": "perhaps"}, files=[])


def test_variables_a_container_platform_sets_are_listed_not_refused() -> None:
    config = load(environ={"ARTIFACTFS_PORT": "tcp://10.0.0.1:80"}, files=[])
    assert config.ignored == ("ARTIFACTFS_PORT",)


def test_the_directories_follow_the_xdg_variables() -> None:
    config = load(environ={"XDG_CACHE_HOME": "/c", "XDG_STATE_HOME": "/s"}, files=[])
    assert config.cache.directory == Path("/c/artifactfs")
    assert config.spool_directory == Path("/s/artifactfs/spool")


def test_the_token_is_found_in_the_order_flag_variable_credential_file(tmp_path: Path) -> None:
    flag, credential, named = (tmp_path / name for name in ("flag", "artifactfs-token", "named"))
    for path in (flag, credential, named):
        path.write_text(path.name + "\n")
    everything = {
        "ARTIFACTFS_TOKEN": "variable",
        "ARTIFACTFS_TOKEN_FILE": str(named),
        "CREDENTIALS_DIRECTORY": str(tmp_path),
        "COMPUTALOT_TOKEN": "service",
    }

    def token(environ: dict[str, str], flags: dict[str, object] | None = None) -> str:
        return load(flags, environ=environ, files=[]).token.read().reveal()

    assert token(everything, {"token_file": str(flag)}) == "flag"
    assert token(everything) == "variable"
    del everything["ARTIFACTFS_TOKEN"]
    assert token(everything) == "named"
    del everything["ARTIFACTFS_TOKEN_FILE"]
    assert token(everything) == "artifactfs-token"
    del everything["CREDENTIALS_DIRECTORY"]
    assert token(everything) == "service"


def test_no_repr_and_no_value_shows_the_token() -> None:
    config = load(environ={"ARTIFACTFS_TOKEN": "flk_secret"}, files=[])
    assert "flk_secret" not in repr(config) + str(config.values()) + str(config.sources)


def test_every_setting_has_help_a_variable_of_its_own_and_an_option_name() -> None:
    assert len({setting.variable for setting in SETTINGS}) == len(SETTINGS)
    for setting in SETTINGS:
        assert setting.explained
        assert key_of_option(setting.key) == setting.key
        assert key_of_option(setting.key.replace(".", "-")) == setting.key


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("20G", 20 << 30),
        ("1.5k", 1536),
        ("1KB", 1000),
        ("1KiB", 1024),
        ("0", 0),
        ("7", 7),
        ("7b", 7),
    ],
)
def test_sizes(text: str, size_bytes: int) -> None:
    assert read_size(text) == size_bytes


@given(st.one_of(st.text(max_size=12), st.floats(), st.integers(), st.booleans(), st.none()))
def test_a_reader_gives_a_number_or_says_what_it_expected(value: object) -> None:
    for read in (read_size, read_duration):
        try:
            assert read(value) >= 0
        except ValueError as error:
            assert "expected" in str(error)


def test_a_value_is_written_as_one_would_give_it() -> None:
    config = load(environ={}, files=())
    for key, text in (
        ("cache.size", "20G"),
        ("upload.max_rate", "0"),
        ("http.timeout", "30s"),
        ("cache.dir", "~/.cache/artifactfs"),
        ("drop.sync", "false"),
        ("spool.dir", ""),
    ):
        assert BY_KEY[key].written(BY_KEY[key].get(config)) == text
    assert BY_KEY["cache.size"].written((1 << 20) + 1) == "1048577"
    for setting in SETTINGS:
        value = setting.get(config)
        if value is not None:
            assert setting.read(setting.written(value)) == value
