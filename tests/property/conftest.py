"""How inputs are drawn here."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# How fast a machine draws says nothing about the product, and a loaded one would turn a test red.
settings.register_profile("unhurried", suppress_health_check=[HealthCheck.too_slow], deadline=None)
settings.load_profile("unhurried")
