package espalier.recipe.reproduce;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.List;

/**
 * One point of an experiment's grid: a pure function of the run's settings and plan, done in a
 * folder of its own.
 *
 * @param name of its folder
 * @param needs cells that must be done before
 * @param arm what it is compared as; cells of one arm lie on one curve
 * @param coordinates where in the grid it is: fields of the results
 */
record Cell(String name, List<String> needs, String arm, ObjectNode coordinates, Task task) {}
