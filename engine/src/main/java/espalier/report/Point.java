package espalier.report;

/** A point of a plot. */
record Point(double x, double y) {}
