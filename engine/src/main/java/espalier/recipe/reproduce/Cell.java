package espalier.recipe.reproduce;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.List;

/**
 * One point of an experiment's grid. It is a pure function of the run's settings and plan, and is
 * done in a folder of its own.
 *
 * @param name the name of that folder
 * @param needs the cells that must be done before
 * @param arm the curve that its results belong to when ways of training are compared
 * @param coordinates where in the grid it is, as fields of the results
 */
record Cell(String name, List<String> needs, String arm, ObjectNode coordinates, Task task) {}
