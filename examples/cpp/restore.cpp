// Restore a photograph with OpenVINO.
//
//     moceir export openvino -o model.xml
//     make
//     ./restore model.xml noisy.ppm restored.ppm
//
// It reads and writes binary PPM (P6, 8 bits), which needs no library. ImageMagick and Pillow convert to and from PPM.

#include <openvino/openvino.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <exception>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

struct Picture {
    std::size_t height, width;
    std::vector<std::uint8_t> pixels;  // RGB, row by row
};

Picture read_ppm(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::string kind;
    std::size_t width = 0, height = 0, white = 0;
    file >> kind >> width >> height >> white;
    file.get();
    if (!file || kind != "P6" || white != 255 || !width || !height)
        throw std::runtime_error(path + ": not an 8-bit binary PPM without comments");
    Picture picture{height, width, std::vector<std::uint8_t>(height * width * 3)};
    file.read(reinterpret_cast<char*>(picture.pixels.data()), static_cast<std::streamsize>(picture.pixels.size()));
    if (!file)
        throw std::runtime_error(path + ": the file is truncated");
    return picture;
}

void write_ppm(const std::string& path, const Picture& picture) {
    std::ofstream file(path, std::ios::binary);
    file << "P6\n" << picture.width << ' ' << picture.height << "\n255\n";
    file.write(reinterpret_cast<const char*>(picture.pixels.data()),
               static_cast<std::streamsize>(picture.pixels.size()));
    if (!file)
        throw std::runtime_error(path + ": cannot write the file");
}

int main(int count, char** arguments) try {
    if (count != 4) {
        std::cerr << "usage: restore model.xml photograph.ppm restored.ppm\n";
        return 2;
    }
    ov::Core core;
    auto model = core.read_model(arguments[1]);
    std::cout << model->get_rt_info<std::string>("moceir", "name") << ", moceir "
              << model->get_rt_info<std::string>("moceir", "version") << ", route "
              << model->get_rt_info<std::string>("moceir", "route") << '\n';
    Picture picture = read_ppm(arguments[2]);
    auto request = core.compile_model(model, "CPU", ov::hint::inference_precision(ov::element::f32))
                       .create_infer_request();

    const std::size_t plane = picture.height * picture.width;
    ov::Tensor image(ov::element::f32, {1, 3, picture.height, picture.width});  // RGB in [0, 1]
    float* values = image.data<float>();
    for (std::size_t i = 0; i < plane; ++i)
        for (std::size_t channel = 0; channel < 3; ++channel)
            values[channel * plane + i] = picture.pixels[3 * i + channel] / 255.0f;
    request.set_input_tensor(image);
    request.infer();
    const ov::Tensor output = request.get_output_tensor();
    const float* restored = output.data<const float>();
    for (std::size_t i = 0; i < plane; ++i)
        for (std::size_t channel = 0; channel < 3; ++channel) {
            const float value = std::clamp(restored[channel * plane + i], 0.0f, 1.0f);
            picture.pixels[3 * i + channel] = static_cast<std::uint8_t>(std::nearbyint(value * 255.0f));
        }
    write_ppm(arguments[3], picture);
} catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return 1;
}
