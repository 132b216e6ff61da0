"""What works: the executor, a pool around Stripe that pays what is due; the sweeper that finds what nobody works on."""
