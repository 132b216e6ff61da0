"""`python -m refundry` is `refundry`."""

from refundry.cli.main import run

if __name__ == "__main__":
    run()
