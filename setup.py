"""The packages of the wheel; all else stands in pyproject.toml, which cannot add to what ``find`` finds."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["mnv2c*"]), "mnv2c.specs", "mnv2c.schedules"],
    package_dir={"mnv2c.specs": "specs", "mnv2c.schedules": "schedules"},
)
