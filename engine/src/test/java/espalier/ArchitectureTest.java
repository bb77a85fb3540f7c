package espalier;

import static com.tngtech.archunit.lang.syntax.ArchRuleDefinition.classes;
import static com.tngtech.archunit.lang.syntax.ArchRuleDefinition.noClasses;
import static com.tngtech.archunit.library.Architectures.layeredArchitecture;
import static com.tngtech.archunit.library.dependencies.SlicesRuleDefinition.slices;

import com.tngtech.archunit.core.importer.ImportOption;
import com.tngtech.archunit.junit.AnalyzeClasses;
import com.tngtech.archunit.junit.ArchTest;
import com.tngtech.archunit.lang.ArchRule;
import com.tngtech.archunit.library.Architectures.LayeredArchitecture;
import java.util.List;

/** The floors of the engine: each uses only those below it, and the lowest alone calls bindings. */
@AnalyzeClasses(packages = "espalier", importOptions = ImportOption.DoNotIncludeTests.class)
class ArchitectureTest {

  /** From top to bottom; packages that share a floor may use each other, without a cycle. */
  private static final List<List<String>> FLOORS =
      List.of(
          List.of("cli"),
          List.of("report"),
          List.of("recipe"),
          List.of("train"),
          List.of("model", "sae", "lora"),
          List.of("nn"),
          List.of("autograd"),
          List.of("data", "hub"),
          List.of("format"),
          List.of("tensor"),
          List.of("device", "distributed"),
          List.of("bindings"));

  @ArchTest static final ArchRule eachFloorUsesOnlyThoseBelow = floors();

  @ArchTest
  static final ArchRule everyPackageIsOnAFloor =
      classes()
          .should()
          .resideInAnyPackage(
              FLOORS.stream()
                  .flatMap(List::stream)
                  .map(ArchitectureTest::inside)
                  .toArray(String[]::new));

  @ArchTest
  static final ArchRule onlyTheDeviceAndRanksCallBindings =
      noClasses()
          .that()
          .resideOutsideOfPackages(inside("device"), inside("distributed"), inside("bindings"))
          .should()
          .dependOnClassesThat()
          .resideInAPackage(inside("bindings"));

  @ArchTest
  static final ArchRule noPackagesInACircle =
      slices().matching("espalier.(*)..").should().beFreeOfCycles();

  private static ArchRule floors() {
    LayeredArchitecture rule =
        layeredArchitecture().consideringOnlyDependenciesInLayers().withOptionalLayers(true);
    for (List<String> floor : FLOORS) {
      String[] packages = floor.stream().map(ArchitectureTest::inside).toArray(String[]::new);
      rule = rule.layer(floor.toString()).definedBy(packages);
    }
    for (int i = 1; i < FLOORS.size(); i++) {
      String[] above = FLOORS.subList(0, i).stream().map(List::toString).toArray(String[]::new);
      rule = rule.whereLayer(FLOORS.get(i).toString()).mayOnlyBeAccessedByLayers(above);
    }
    return rule.whereLayer(FLOORS.getFirst().toString()).mayNotBeAccessedByAnyLayer();
  }

  private static String inside(String name) {
    return "espalier." + name + "..";
  }
}
