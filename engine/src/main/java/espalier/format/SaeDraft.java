package espalier.format;

import espalier.format.SaeWeights.Activation;
import espalier.format.SaeWeights.Matrix;
import espalier.format.SaeWeights.Normalisation;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Optional;
import java.util.OptionalDouble;

/**
 * An SAE that a reader is making from its files. Scales are folded into it in float64, and rounded
 * once.
 */
final class SaeDraft {

  final TensorFile file;
  final Path path;
  final String format;
  final String architecture;
  final long dIn;
  final long dOut;
  final long dSae;
  double[] bEnc;
  double[] bPre;
  double[] bDec;
  Activation activation = Activation.RELU;
  double[] threshold;
  int k;
  Matrix skip;
  Normalisation normalisation = Normalisation.NONE;
  boolean transcoder;
  String hook = "";
  Optional<SaeSite> site = Optional.empty();
  Optional<SaeSite> siteOut = Optional.empty();
  OptionalDouble expectedL0 = OptionalDouble.empty();
  final List<String> folded = new ArrayList<>();
  final List<String> warnings = new ArrayList<>();

  private TensorEntry encoder;
  private boolean encoderTransposed;
  private double[] encoderScale;
  private TensorEntry decoder;
  private boolean decoderTransposed;
  private double[] decoderScale;

  SaeDraft(
      Path path, TensorFile file, String format, String architecture, long in, long out, long m) {
    this.path = path;
    this.file = file;
    this.format = format;
    this.architecture = architecture;
    dIn = size("width of the input", in);
    dOut = size("width of the output", out);
    dSae = size("number of latents", m);
  }

  private long size(String what, long value) {
    if (value < 1 || value > Integer.MAX_VALUE) {
      throw new InputException(
          file.file(), "the SAE's %s is %d, not in [1, 2^31)".formatted(what, value));
    }
    return value;
  }

  /** The rows and columns of a matrix, which may have any size. */
  static long[] matrix(TensorFile file, String name) {
    long[] shape = file.tensor(name).shape();
    if (shape.length != 2) {
      throw new InputException(file.file(), "tensor " + name + " is no matrix");
    }
    return shape;
  }

  /** Sets the encoder to a matrix whose rows in the file are latents. */
  SaeDraft encoderOfRows(String name) {
    return encoder(name, false);
  }

  /** Sets the encoder to a matrix stored as {@code [dIn, dSae]}. */
  SaeDraft encoderOfColumns(String name) {
    return encoder(name, true);
  }

  private SaeDraft encoder(String name, boolean columns) {
    encoder = columns ? file.tensor(name, dIn, dSae) : file.tensor(name, dSae, dIn);
    encoderTransposed = columns != encoder.columnMajor();
    return this;
  }

  /** Sets the decoder to a matrix stored as {@code [dSae, dOut]}. */
  SaeDraft decoderOfRows(String name) {
    return decoder(name, false);
  }

  /** Sets the decoder to a matrix stored as {@code [dOut, dSae]}. */
  SaeDraft decoderOfColumns(String name) {
    return decoder(name, true);
  }

  private SaeDraft decoder(String name, boolean columns) {
    decoder = columns ? file.tensor(name, dOut, dSae) : file.tensor(name, dSae, dOut);
    decoderTransposed = columns != decoder.columnMajor();
    return this;
  }

  /**
   * Adds a skip connection, y += x times the transpose of a matrix stored as {@code [dOut, dIn]}.
   */
  void skipOfOutputs(String name) {
    TensorEntry entry = file.tensor(name, dOut, dIn);
    skip = new Matrix(entry, entry.columnMajor(), null);
  }

  /** Adds a skip connection, y += x times a matrix stored as {@code [dIn, dOut]}. */
  void skipOfInputs(String name) {
    TensorEntry entry = file.tensor(name, dIn, dOut);
    skip = new Matrix(entry, !entry.columnMajor(), null);
  }

  double[] vector(String name, long size) {
    TensorEntry entry = file.tensor(name, size);
    double[] values = new double[Math.toIntExact(size)];
    for (int i = 0; i < values.length; i++) {
      values[i] = entry.value(i);
    }
    return values;
  }

  /** Sets the site to a hook's name, also if transcoders or the format have no such name for it. */
  void at(String hook) {
    this.hook = hook;
    site = SaeSite.parse(hook);
  }

  void jumpRelu(double[] threshold) {
    activation = Activation.JUMPRELU;
    this.threshold = threshold;
  }

  /**
   * Makes it a gated SAE (Rajamanoharan et al. 2024): with u = W (x - b), f = relu(e^r u + bMag)
   * where u + bGate &gt; 0. As e^r is positive, this is JumpReLU of z = e^r u + bMag with the
   * threshold bMag - e^r bGate.
   */
  void gated(double[] bGate, double[] bMag, double[] rMag) {
    double[] gain = new double[rMag.length];
    double[] theta = new double[rMag.length];
    for (int i = 0; i < gain.length; i++) {
      gain[i] = Math.exp(rMag[i]);
      theta[i] = bMag[i] - gain[i] * bGate[i];
    }
    bEnc = bMag;
    encoderScale = times(encoderScale, gain);
    jumpRelu(theta);
    folded.add("gate into thresholds");
  }

  /**
   * Moves the norms of the decoder's rows into the latents: the rows get norm 1, and z is
   * multiplied by the norms. Ranking and thresholds then apply to the new z.
   */
  void foldDecoderNorms() {
    double[] norms = decoderNorms();
    double[] inverse = new double[norms.length];
    for (int i = 0; i < norms.length; i++) {
      norms[i] = norms[i] > 0 ? norms[i] : 1;
      inverse[i] = 1 / norms[i];
      bEnc[i] *= norms[i];
    }
    encoderScale = times(encoderScale, norms);
    decoderScale = times(decoderScale, inverse);
    folded.add("decoder norms");
  }

  /** Turns weights that were made for s x into weights for x. Latents keep their values. */
  void foldInputScale(double s) {
    encoderScale = times(encoderScale, constant(s));
    if (bPre != null) {
      scale(bPre, 1 / s);
    }
    foldOutputScale(1 / s);
  }

  /** Multiplies the output by s. */
  void foldOutputScale(double s) {
    decoderScale = times(decoderScale, constant(s));
    scale(bDec, s);
  }

  void scaleDecoder(double s) {
    decoderScale = times(decoderScale, constant(s));
  }

  void scaleEncoder(double s) {
    encoderScale = times(encoderScale, constant(s));
  }

  static void scale(double[] values, double s) {
    for (int i = 0; i < values.length; i++) {
      values[i] *= s;
    }
  }

  double[] constant(double value) {
    double[] values = new double[Math.toIntExact(dSae)];
    Arrays.fill(values, value);
    return values;
  }

  /** The norms of the decoder's rows as they are now. */
  double[] decoderNorms() {
    double[] squares = new double[Math.toIntExact(dSae)];
    long rows = decoderTransposed ? dOut : dSae;
    long cols = decoderTransposed ? dSae : dOut;
    for (long r = 0; r < rows; r++) {
      for (long c = 0; c < cols; c++) {
        double w = decoder.value(r * cols + c);
        squares[(int) (decoderTransposed ? c : r)] += w * w;
      }
    }
    double[] norms = new double[squares.length];
    for (int i = 0; i < norms.length; i++) {
      norms[i] = Math.sqrt(squares[i]) * (decoderScale == null ? 1 : Math.abs(decoderScale[i]));
    }
    return norms;
  }

  private static double[] times(double[] scale, double[] factor) {
    if (scale == null) {
      return factor.clone();
    }
    double[] product = new double[scale.length];
    for (int i = 0; i < product.length; i++) {
      product[i] = scale[i] * factor[i];
    }
    return product;
  }

  SaeWeights finish() {
    // relu(z) 1[z > theta] is the same function for every theta below 0.
    float[] theta = threshold == null ? null : floats(threshold);
    for (int i = 0; theta != null && i < theta.length; i++) {
      theta[i] = Math.max(theta[i], 0);
    }
    return new SaeWeights(
        path,
        format,
        architecture,
        activation,
        dIn,
        dOut,
        dSae,
        new Matrix(encoder, encoderTransposed, floats(encoderScale)),
        floats(bEnc),
        floats(bPre),
        new Matrix(decoder, decoderTransposed, floats(decoderScale)),
        floats(bDec),
        theta,
        k,
        skip,
        normalisation,
        normalisation != Normalisation.NONE && !transcoder,
        hook,
        site,
        siteOut,
        expectedL0,
        List.copyOf(folded),
        List.copyOf(warnings));
  }

  private static float[] floats(double[] values) {
    if (values == null) {
      return null;
    }
    float[] floats = new float[values.length];
    for (int i = 0; i < floats.length; i++) {
      floats[i] = (float) values[i];
    }
    return floats;
  }
}
