"""Requests between nights: predict, evaluate, synthesise."""
