"""Ways into and out of other systems: files now; desks, order systems and alerts later. A connector returns facts and decides nothing."""
