/** The engine against what PyTorch computed in float64, on small models in the test resources. */
package espalier.golden;
