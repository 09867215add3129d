// What libFuzzer does, without coverage, for compilers that do not have it: runs the inputs that
// are named, and for -max_total_time=SECONDS blind mutations of them.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size);

namespace {

using Input = std::vector<std::uint8_t>;

constexpr unsigned kMostSecondsEach = 20;
constexpr const char *kTried = "last-input";

void run(const Input &input) {
    alarm(kMostSecondsEach);  // a hang ends the program
    LLVMFuzzerTestOneInput(input.data(), input.size());
    alarm(0);
}

std::vector<Input> inputs_at(const std::filesystem::path &path) {
    std::vector<std::filesystem::path> files;
    if (std::filesystem::is_directory(path))
        for (const auto &one : std::filesystem::directory_iterator(path)) files.push_back(one);
    else
        files.push_back(path);
    std::sort(files.begin(), files.end());
    std::vector<Input> inputs;
    for (const auto &file : files) {
        std::ifstream from(file, std::ios::binary);
        inputs.emplace_back(std::istreambuf_iterator<char>(from), std::istreambuf_iterator<char>());
    }
    return inputs;
}

Input mutated(Input input, std::mt19937_64 &random) {
    if (input.empty()) input.resize(64);
    for (std::uint64_t left = 1 + random() % 8; left > 0; --left) {
        const std::size_t at = random() % input.size();
        switch (random() % 4) {
        case 0:
            input[at] = static_cast<std::uint8_t>(random());
            break;
        case 1:
            input[at] ^= static_cast<std::uint8_t>(1 << random() % 8);
            break;
        case 2:
            input.insert(input.begin() + static_cast<std::ptrdiff_t>(at), random() % 32,
                         static_cast<std::uint8_t>(random()));
            break;
        default:
            if (input.size() > 1) input.resize(at + 1);
        }
    }
    return input;
}

}  // namespace

int main(int num_arguments, char **arguments) {
    const std::string_view limit = "-max_total_time=";
    std::vector<Input> inputs;
    std::chrono::seconds seconds(0);
    for (int rank = 1; rank < num_arguments; ++rank) {
        const std::string argument = arguments[rank];
        if (argument.starts_with(limit)) {
            seconds = std::chrono::seconds(std::stoi(argument.substr(limit.size())));
        } else if (!argument.starts_with("-")) {
            const auto found = inputs_at(argument);
            inputs.insert(inputs.end(), found.begin(), found.end());
        }
    }
    for (const Input &input : inputs) run(input);
    std::printf("ran %zu inputs\n", inputs.size());
    if (inputs.empty()) inputs.emplace_back();
    const std::uint64_t seed = std::random_device{}();
    std::mt19937_64 random(seed);
    std::uint64_t num_runs = 0;
    const auto end = std::chrono::steady_clock::now() + seconds;
    for (; std::chrono::steady_clock::now() < end; ++num_runs) {
        const Input input = mutated(inputs[random() % inputs.size()], random);
        // Left behind if it ends the program.
        std::ofstream(kTried, std::ios::binary)
            .write(reinterpret_cast<const char *>(input.data()),
                   static_cast<std::streamsize>(input.size()));
        run(input);
        if (inputs.size() < 1000) inputs.push_back(input);
    }
    if (num_runs != 0) std::filesystem::remove(kTried);
    std::printf("ran %lu mutations, seed %lu\n", num_runs, seed);
}
