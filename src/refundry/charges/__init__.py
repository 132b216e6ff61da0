"""Our mirror of a charge: what was captured, its refunds whoever made them, its disputes. It decides nothing."""
