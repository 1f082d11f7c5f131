"""The stages of a night: plain functions on plain data; every one runs without Prefect."""
